"""Bodies as large as a server takes, of every kind that costs more than its bytes."""

from collections.abc import Callable, Iterator

# every field that some dialect reads texts, ids or objects from
_FIELDS = (
    *("query", "texts", "documents", "inputs", "input", "ids", "tokens", "text", "instances"),
    *("queries", "items", "text_1", "text_2", "data_1", "data_2", "examples", "rank_fields"),
    *("embedding_types", "first_stage_scores", "property", "parameters", "model", "prompt_name"),
)
LISTED = ("texts", "documents", "inputs", "input", "ids", "tokens", "instances", "queries", "items")


def _filled(start: bytes, part: bytes, end: bytes, size: int) -> bytes:
    """Return start, as many parts as fit, and end; the parts' last comma is left out."""
    count = max(1, (size - len(start) - len(end)) // len(part))
    return start + (part * count).removesuffix(b",") + end


def _lists(part: bytes) -> Callable[[int], bytes]:
    """Return a maker of bodies in which every list that a dialect may read holds a part, often."""

    def make(size: int) -> bytes:
        share = size // len(LISTED) - 20
        lists = (_filled(b'"%s":[' % name.encode(), part, b"]", share) for name in LISTED)
        return b'{"query":"q",' + b",".join(lists) + b"}"

    return make


def _one(name: str, part: bytes) -> Callable[[int], bytes]:
    start = b'{"query":"q","%s":[' % name.encode()
    return lambda size: _filled(start, part, b"]}", size)


def _long(part: str) -> Callable[[int], bytes]:
    """Return a maker of bodies of one long text, where a text may stand."""

    def make(size: int) -> bytes:
        share = (size - 200) // 3
        text = part * (share // len(part.encode()))
        data = text.encode()
        fields = b'"query":"q","texts":["%s"],"documents":["%s"],"inputs":"%s"'
        return b"{" + fields % (data, data, data) + b',"input":"a","text":"b"}'

    return make


def _query(size: int) -> bytes:
    end = b",".join(
        b'"%s":["%s"]' % (x, b'","'.join([b"b"] * 9_000)) for x in (b"texts", b"documents")
    )
    return b'{"query":"' + b"a b " * ((size - len(end) - 20) // 4) + b'",' + end + b"}"


def _names(size: int) -> bytes:
    fields = b",".join(b'"%s":"%s"' % (x, b"x" * (size // 3)) for x in (b"model", b"prompt_name"))
    return b'{"query":"q","texts":["b"],"inputs":"a","input":"a","documents":["b"],' + fields + b"}"


def _everywhere(value: bytes) -> Callable[[int], bytes]:
    def make(size: int) -> bytes:
        share = size // len(_FIELDS) - 20
        return (
            b"{"
            + b",".join(b'"%s":%s' % (x.encode(), value * (share // len(value))) for x in _FIELDS)
            + b"}"
        )

    return make


KINDS: dict[str, Callable[[int], bytes]] = {
    "numbers for texts": _one("texts", b"0,"),
    "numbers everywhere": _lists(b"0,"),
    "floats everywhere": _lists(b"0.1,"),
    "large ids": _lists(b"249000,"),
    "empty lists": _one("texts", b"[],"),
    "empty lists everywhere": _lists(b"[],"),
    "lists of texts": _lists(b'["a","b"],'),
    "empty objects": _lists(b"{},"),
    "objects": _lists(b'{"text":"a"},'),
    "nulls": _lists(b"null,"),
    "empty texts": _lists(b'"",'),
    "short texts": _lists(b'"ab",'),
    "texts": _lists(b'"A cat may live for ten years, a dog for fifteen.",'),
    "texts of a page": _lists(b'"' + b"A cat may live for ten years. " * 60 + b'",'),
    "ids, one wrong": lambda size: _filled(b'{"ids":[', b"7,", b"999999999]}", size),
    "one text with spaces": _long("a cat "),
    "one text of one word": _long("a"),
    "one text of one word, wide": _long("猫a"),
    "one text of emoji": _long("👨‍👩‍👧"),
    "one text of lines": _long("\\n"),
    "a long query for many": _query,
    "long names": _names,
    "opened lists": lambda size: b"[" * size,
    "opened lists in a field": lambda size: b'{"texts":' + b"[" * (size - 9),
    "opened objects": lambda size: b'{"a":' * (size // 5),
    "keys": lambda size: b"{" + b",".join(b'"%x":0' % i for i in range(size // 12)) + b"}",
    "the same key": lambda size: _filled(b"{", b'"texts":0,', b"}", size),
    "backslashes": lambda size: b'{"query":"' + b"\\\\" * (size // 2 - 20) + b'","texts":["a"]}',
    "escapes": lambda size: b'{"query":"' + b"\\u732b" * (size // 6 - 9) + b'","texts":["a"]}',
    "an open text": lambda size: b'{"query":"' + b"a" * (size - 20),
    "blanks": lambda size: b" " * (size - 2) + b"{}",
    "zeros": lambda size: b"\0" * size,
    "digits": lambda size: b'{"query":"q","texts":["a"],"top_n":' + b"9" * (size - 50) + b"}",
    "instances": lambda size: _filled(b'{"instances":[', b'{"inputs":"a"},', b"]}", size),
    "instances of batches": lambda size: _filled(
        b'{"instances":[', b'{"inputs":[' + b'"a",' * 9_000 + b'"a"]},', b"]}", size
    ),
    "base64, often": lambda size: _filled(
        b'{"texts":["a","b"],"embedding_types":[', b'"base64",', b"]}", min(size, 90_000)
    ),
    "many fields to rank by": lambda size: (
        b'{"query":"q","rank_fields":['
        + b",".join([b'"a"'] * 9_000)
        + b'],"documents":['
        + b",".join([b'{"a":"x"}'] * 9_000)
        + b"]}"
    ),
}


def bodies(size: int) -> Iterator[tuple[str, bytes]]:
    """Yield every kind of body, of about a size in bytes and never above it."""
    for name, make in KINDS.items():
        body = make(size)
        assert len(body) <= size, name
        yield name, body
