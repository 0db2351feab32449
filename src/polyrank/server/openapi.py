"""The OpenAPI document, from the routes and the schemas of their bodies."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

import polyrank
from polyrank.server.dialects.base import Body, Route

REF = "#/components/schemas/{model}"
_ERROR_STATUSES = {
    "400": "The body cannot be read, or nothing can be done with it.",
    "401": "The API key is missing or wrong.",
    "404": "No such model.",
    "413": "Too many bytes or texts.",
    "422": "A field has the wrong type or value.",
    "424": "The model cannot do this (text-embeddings-inference's status).",
    "429": "Too much waits already; see Retry-After.",
    "500": "The server failed.",
    "503": "Starting, stopping, or the model is not loaded at present.",
    "504": "The result was not there in time.",
}


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the document.

    Args:
        routes: All routes of dialects.

    Returns:
        OpenAPI 3.1 as plain values.
    """
    bodies: dict[type[Body], None] = {}
    for route in routes:
        for operation in route.operations:
            if operation.schema is not None:
                bodies[operation.schema] = None
    names, defined = models_json_schema([(body, "validation") for body in bodies], ref_template=REF)
    refs = {body: names[body, "validation"] for body in bodies}
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "polyrank",
            "version": polyrank.__version__,
            "description": "Rerank, embed and classify text, in the protocols of many services.",
        },
        "paths": paths,
        "components": {
            "schemas": defined.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, refs: dict[type[Body], Any]) -> dict[str, Any]:
    first = route.operations[0]
    described: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "tags": [first.dialect.name],
        "summary": " · ".join(dict.fromkeys(each.summary for each in route.operations)),
        "security": [{"key": []}, {}],
        "responses": {
            "200": {"description": "The result.", "content": {"application/json": {}}},
            **{
                status: {"description": text, "content": {"application/json": {}}}
                for status, text in _ERROR_STATUSES.items()
            },
        },
    }
    schemas = [refs[each.schema] for each in route.operations if each.schema is not None]
    if schemas:
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": _unique(schemas)}
        content = {"application/json": {"schema": schema}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _unique(schemas: list[Any]) -> list[Any]:
    return [schema for i, schema in enumerate(schemas) if schema not in schemas[:i]]
