"""HTML: what a reader sees of a page, without its navigation."""

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from polyrank.pipeline.extracting.decoding import decode
from polyrank.pipeline.extracting.document import ExtractedDocument, TextBuilder

_LEFT_OUT = frozenset(
    [
        "script",
        "style",
        "noscript",
        "template",
        "svg",
        "iframe",
        "object",
        "head",
        "nav",
        "footer",
        "button",
        "select",
        "textarea",
        "-comment",
    ]
)
_INLINE = frozenset(
    [
        "a",
        "abbr",
        "acronym",
        "b",
        "bdi",
        "bdo",
        "big",
        "cite",
        "code",
        "data",
        "del",
        "dfn",
        "em",
        "font",
        "i",
        "img",
        "input",
        "ins",
        "kbd",
        "label",
        "mark",
        "math",
        "meter",
        "output",
        "progress",
        "q",
        "rp",
        "rt",
        "ruby",
        "s",
        "samp",
        "small",
        "span",
        "strike",
        "strong",
        "sub",
        "sup",
        "time",
        "tt",
        "u",
        "var",
        "wbr",
    ]
)
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w:.\-]{1,40})", re.I)
_DECLARED = re.compile(rb"<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([\w:.\-]{1,40})", re.I)
_HEAD = 4_096  # bytes in which a page names its encoding


def extract(data: bytes) -> list[ExtractedDocument]:
    """Return the document in a page.

    Args:
        data: The page.

    Returns:
        One document, its blocks parted by blank lines.

    Raises:
        DataError: If it is not in the encoding that it names.
    """
    named = _CHARSET.search(data[:_HEAD]) or _DECLARED.search(data[:_HEAD])
    tree = LexborHTMLParser(decode(data, named.group(1).decode("ascii") if named else None))
    root = tree.root
    title = tree.css_first("title")
    builder = _Blocks()
    if root is not None:
        builder.walk(root)
    return [
        builder.text.document(
            title="" if title is None else " ".join(title.text().split()),
            language=_language(root),
        )
    ]


def _language(root: LexborNode | None) -> str:
    """Return the language that a page names, without its region: "de" of "de-AT"."""
    attributes = {} if root is None else root.attributes
    named = attributes.get("lang") or attributes.get("xml:lang") or ""
    return re.split(r"[-_]", named.strip().lower())[0][:8]


class _Blocks:
    """Walks a tree in order; what stands between two borders of blocks becomes one."""

    def __init__(self) -> None:
        self.text = TextBuilder()
        self._open: list[str] = []

    def walk(self, root: LexborNode) -> None:
        """Take a tree, without recursion: pages nest as deeply as they like."""
        stack: list[tuple[LexborNode, bool]] = [(root, False)]
        while stack:
            node, is_left = stack.pop()
            tag = node.tag or ""
            if is_left:
                self._end(tag)
            elif tag == "-text":
                self._open.append(node.text_content or "")
            elif tag not in _LEFT_OUT:
                if tag not in _INLINE:
                    self._end()
                    stack.append((node, True))
                stack.extend((child, False) for child in reversed(list(_children(node))))
        self._end()

    def _end(self, tag: str = "") -> None:
        level = int(tag[1]) if re.fullmatch("h[1-6]", tag) else 0
        joined = "".join(self._open)
        # line ends of the source say nothing, but those of preformatted text do
        words = joined if tag == "pre" else " ".join(joined.split())
        self.text.add(words, level=level)
        self._open.clear()


def _children(node: LexborNode) -> list[LexborNode]:
    return list(node.iter(include_text=True))
