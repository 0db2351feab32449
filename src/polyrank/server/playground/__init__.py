"""The pages at `/` and `/docs`: one file each, no build step, nothing from elsewhere.

Its policy allows the page's own script and style, by their hashes, and requests to this server.
"""

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from importlib import resources

SAMPLE = "sample.json"


@dataclass(frozen=True, slots=True)
class Page:
    """What is sent.

    Attributes:
        content: HTML in UTF-8.
        policy: Value of the header Content-Security-Policy.
    """

    content: bytes
    policy: str


def load_page() -> Page:
    """Return the page with its sample in it."""
    folder = resources.files(__name__)
    sample = json.loads(folder.joinpath(SAMPLE).read_text("utf8"))
    # "<" is escaped: a sample must not be able to end the script that holds it
    inline = json.dumps(sample, ensure_ascii=False).replace("<", "\\u003c")
    html = folder.joinpath("index.html").read_text("utf8").replace('"{sample}"', inline)
    return page_of(html)


def style_of(html: str) -> str:
    """Return the style of a page, for another one that is to look the same."""
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    return str(style)


def page_of(html: str) -> Page:
    """Return a page with the policy that lets its own script and style run, and nothing else."""
    policy = "; ".join(
        (
            "default-src 'none'",
            "connect-src 'self'",
            f"script-src {_hashes(html, 'script')}",
            f"style-src {_hashes(html, 'style')}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    return Page(html.encode(), policy)


def _hashes(html: str, tag: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (hashlib.sha256(text.encode()).digest() for text in found)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
