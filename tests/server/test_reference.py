"""The page at `/docs`: every route is on it, and what it says to send is taken."""

import re

from polyrank.server.dialects.routes import ROUTES
from polyrank.server.openapi import describe
from polyrank.server.playground.reference import bodies_of, example, load_reference
from tests.server.running import Running

DOCUMENT = describe(ROUTES)


def test_every_route_and_field_is_on_the_page() -> None:
    page = load_reference(DOCUMENT)
    text = page.content.decode()
    assert text.count("<details ") == sum(map(len, DOCUMENT["paths"].values())) == len(ROUTES)
    for route in ROUTES:
        assert f"<code>{route.path}</code>" in text
        for operation in route.operations:
            for name in operation.schema.model_fields if operation.schema else ():
                assert f"<code>{name}</code>" in text
    assert not re.search(r"\{(style|version|links|sections)\}", text)
    assert len(page.content) < 300_000


def test_its_examples_are_answered(server: Running) -> None:
    asked = 0
    for path, methods in DOCUMENT["paths"].items():
        operation = methods.get("post", {})
        for name, schema in bodies_of(operation, DOCUMENT):
            reply = server.call(path, example(name, schema, DOCUMENT))
            asked += 1
            # the classifier of these tests reads pairs alone; ids may be of no text
            is_known = reply.status == 400 and b"pairs of texts" in reply.body
            assert reply.status == 200 or is_known, (path, name, reply.body)
    assert asked > 80
