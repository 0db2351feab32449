import pytest

from tests.stores.places import DTYPES, PLACES, Place


@pytest.fixture(params=PLACES, ids=lambda place: place.name or place.scheme)
def place(request: pytest.FixtureRequest) -> Place:
    pytest.importorskip(request.param.module)
    return request.param


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest, place: Place) -> str:
    if request.param not in place.dtypes:
        pytest.skip(f"{place.scheme} keeps no {request.param} vectors")
    return request.param
