"""Who may be behind a request: web pages of other origins, and names that are not the server's.

A browser sends what any page asks it to send, and says in `Origin` which page that was. A page
whose own name was made to point at this machine (DNS rebinding) shows that name in `Host`. A server
without keys has nothing else to tell them from its user by.
"""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from polyrank.server.dialects.openai import OPENAI
from polyrank.server.exchange import ID_HEADER, dump, request_id
from polyrank.server.failures import LONGEST_MESSAGE, Failure
from polyrank.server.sending import send_in_pieces

ANY = "*"
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class OriginGate:
    """Lets a request through if it calls the server by its name and comes from no foreign page."""

    def __init__(
        self, app: ASGIApp, host: str, allowed_hosts: Sequence[str], allowed_origins: Sequence[str]
    ) -> None:
        """Set what is allowed.

        Args:
            app: What answers the requests that are let through.
            host: Address that the server listens on.
            allowed_hosts: Names that it goes by, beside this machine's; "*" for any. Without
                any, every name will do unless the address is one that only this machine reaches.
            allowed_origins: Origins of pages that may call; "*" for any.
        """
        self._app = app
        is_open = ANY in allowed_hosts or not (allowed_hosts or is_local(host))
        names = (*_LOCAL, *(name_of(each) for each in allowed_hosts))
        self._hosts = None if is_open else frozenset((*names, name_of(host)))
        self._origins = frozenset(each.lower().rstrip("/") for each in allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it with 403."""
        fault = self._fault(Headers(scope=scope)) if scope["type"] == "http" else ""
        if not fault:
            await self._app(scope, receive, send)
            return
        failure = Failure("forbidden", fault[:LONGEST_MESSAGE])
        headers = {ID_HEADER: request_id(Request(scope)), "connection": "close"}
        content = dump(OPENAI.encode_error(failure, 403))
        await send_in_pieces(Response(content, 403, headers, "application/json"), send)

    def _fault(self, headers: Headers) -> str:
        host = headers.get("host", "")
        if host and self._hosts is not None and name_of(host) not in self._hosts:
            return (
                f"this server does not go by the name {name_of(host)!r}; start it with "
                f"--allowed-host {name_of(host)} if it should"
            )
        origin = headers.get("origin")
        if origin is None or ANY in self._origins or origin.lower() in self._origins:
            return ""
        # whether TLS ends here or before cannot be told, so the scheme is left out
        if host and origin.lower().partition("://")[2] == host.lower():
            return ""
        return (
            f"pages of {origin!r} may not call this server; start it with "
            f"--cors-allow-origin {origin} if they should"
        )


def name_of(host: str) -> str:
    """Return a host without its port, in small letters; IPv6 addresses in brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    if host.count(":") > 1:
        return f"[{host}]"
    return host.partition(":")[0].rstrip(".")


def is_local(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    name = name_of(host)
    return name in _LOCAL or name.startswith("127.")
