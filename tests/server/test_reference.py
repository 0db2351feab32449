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


def test_the_document_allows_nothing_that_every_request_is_refused_for() -> None:
    schemas = DOCUMENT["components"]["schemas"]

    def least(name: str, field: str) -> set[object]:
        found = schemas[name]["properties"][field]
        kinds = found.get("anyOf", [found])
        return {kind[key] for kind in kinds for key in ("minItems", "minimum") if key in kind}

    for name, schema in schemas.items():
        for field in ("texts", "documents", "input", "top_n", "top_k"):
            if field in schema["properties"] and name not in ("ScoreBody", "VectorsBody"):
                is_free = (field == "top_n" and "vllm" in name) or "weaviate" in name
                assert is_free or least(name, field) == {1}, (name, field)
    assert schemas["EmbeddingsBody"]["properties"]["late_chunking"]["anyOf"][0]["type"] == "boolean"
