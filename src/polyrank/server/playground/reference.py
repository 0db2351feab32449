"""The page at `/docs`: every route with its fields and a body to begin with, from the document."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from importlib import resources
from typing import Any

from polyrank.server.playground import Page, page_of, style_of

Json = Mapping[str, Any]
_TEXTS = ["Cats live twelve to fifteen years.", "Dogs bark."]
# what a field holds in examples, under whatever protocol
_VALUES: Mapping[str, Any] = {
    "query": "How long do cats live?",
    "texts": _TEXTS,
    "documents": _TEXTS,
    "inputs": _TEXTS[0],
    "input": _TEXTS,
    "text": _TEXTS[0],
    "sentences": _TEXTS,
    "source_sentence": "How long do cats live?",
    "ids": [5, 6, 7],
    "tokens": [5, 6, 7],
    "text_1": "How long do cats live?",
    "text_2": _TEXTS,
    "instances": [{"inputs": _TEXTS[0]}],
}
# of fields that may all be left out, those that a request of any use has
_WANTED: Mapping[str, tuple[str, ...]] = {"ScoreBody": ("text_1", "text_2")}
_CONTENT = ("texts", "text", "documents")


def load_reference(document: Json) -> Page:
    """Return the page.

    Args:
        document: The OpenAPI document.

    Returns:
        HTML and its policy.
    """
    folder = resources.files("polyrank.server.playground")
    by_protocol: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            route = _route(method.upper(), path, operation, document)
            by_protocol.setdefault(operation["tags"][0], []).append(route)
    parts = {
        "style": style_of(folder.joinpath("index.html").read_text("utf8")),
        "version": escape(document["info"]["version"]),
        "links": "".join(f'<a href="#{name}">{escape(name)}</a>' for name in by_protocol),
        "sections": "".join(
            f'<section id="{name}"><h2>{escape(name)}</h2>{"".join(routes)}</section>'
            for name, routes in by_protocol.items()
        ),
    }
    html = folder.joinpath("reference.html").read_text("utf8")
    for name, content in parts.items():
        html = html.replace("{" + name + "}", content)
    return page_of(html)


def bodies_of(operation: Json, document: Json) -> Iterator[tuple[str, Json]]:
    """Yield the name and the schema of each body that an operation takes."""
    if "requestBody" not in operation:
        return
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    for each in schema.get("anyOf", [schema]):
        yield each["$ref"].rpartition("/")[2], _resolved(each, document)


def example(name: str, schema: Json, document: Json) -> dict[str, Any]:
    """Return a body that a schema allows, to begin with.

    Args:
        name: Name of the schema.
        schema: It.
        document: Where what it refers to stands.

    Returns:
        Its required fields, or those without which it would mean nothing.
    """
    properties = schema.get("properties", {})
    kind = name.rpartition("__")[2]
    wanted = _WANTED.get(kind, tuple(schema.get("required", ())))
    if not set(wanted) - {"query"}:
        wanted = (*wanted, *(each for each in _CONTENT if each in properties))[: len(wanted) + 1]
    return {each: _value(each, properties[each], document) for each in wanted}


def _value(name: str, schema: Json, document: Json) -> Any:
    schema = _resolved(schema, document)
    if schema.get("type") == "array":
        member = _resolved(schema["items"], document)
        if member.get("properties"):
            return [example("", member, document)]
        if name == "content":
            return [{"type": "text", "text": _TEXTS[0]}]
        if name in _VALUES and isinstance(_VALUES[name], str):
            return [_VALUES[name]]
    if schema.get("properties"):
        return example("", schema, document)
    return _VALUES[name]


def _route(method: str, path: str, operation: Json, document: Json) -> str:
    bodies = list(bodies_of(operation, document))
    fields = " ".join(field for _, body in bodies for field in body.get("properties", {}))
    summary = operation["summary"]
    found = escape(f"{method} {path} {' '.join(operation['tags'])} {summary} {fields}".lower())
    inner = "".join(_body(path, name, body, document, len(bodies) > 1) for name, body in bodies)
    if not bodies:
        inner = f"<pre>curl {_address(path)}</pre>"
    return (
        f'<details id="{operation["operationId"]}" data-find="{found}"><summary>'
        f'<span class="method">{method}</span><code>{escape(path)}</code>'
        f'<span class="what">{escape(summary)}</span></summary>'
        f'<div class="inner">{inner}</div></details>'
    )


def _body(path: str, name: str, body: Json, document: Json, is_one_of_many: bool) -> str:
    required = body.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{escape(_type(schema, document))}</td>"
        f"<td>{'required' if field in required else escape(_default(schema))}</td></tr>"
        for field, schema in body.get("properties", {}).items()
    )
    title = name.removeprefix("polyrank__server__dialects__").replace("__", ": ", 1)
    told = escape(" ".join(body.get("description", "").split()))
    sent = json.dumps(example(name, body, document), ensure_ascii=False)
    return (
        (f"<h3>{escape(title)}</h3>" if is_one_of_many else "")
        + f"<p>{told}</p>"
        + '<div class="wide"><table><tr><th>Field</th><th>Type</th><th>Default</th></tr>'
        + f"{rows}</table></div><pre>curl {_address(path)} -d '{escape(sent)}'</pre>"
    )


def _address(path: str) -> str:
    return escape(f"127.0.0.1:3000{path}")


def _resolved(schema: Json, document: Json) -> Json:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _type(schema: Json, document: Json) -> str:
    schema = _resolved(schema, document)
    if "anyOf" in schema:
        kinds = dict.fromkeys(_type(each, document) for each in schema["anyOf"])
        return " or ".join(kind for kind in kinds if kind != "null")
    if "enum" in schema:
        return " or ".join(json.dumps(each) for each in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if schema.get("type") == "array":
        return f"list of ({_type(schema['items'], document)})"
    return str(schema.get("type", "any"))


def _default(schema: Json) -> str:
    default = schema.get("default")
    return "" if default is None else json.dumps(default)
