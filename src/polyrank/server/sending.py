"""Replies on their way out: counted, sent in pieces, held no longer than their client reads."""

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.responses import Response
from starlette.types import Send

from polyrank.errors import OverloadedError

_PIECE_BYTES = 65_536  # what a connection holds beside what the network has taken


class Outbox:
    """Counts the bytes of replies that are being sent. Used from the event loop alone."""

    def __init__(self, max_bytes: int) -> None:
        """Begin with none.

        Args:
            max_bytes: Most bytes at once, unless a reply is the only one.
        """
        self._max_bytes = max_bytes
        self.num_bytes = 0

    @contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Count a reply for the length of the block.

        Args:
            count: Its bytes.

        Yields:
            Nothing.

        Raises:
            OverloadedError: If it does not fit beside those that are being sent.
        """
        if self.num_bytes and self.num_bytes + count > self._max_bytes:
            raise OverloadedError(
                f"{self.num_bytes:,} bytes of replies wait for their clients to read them, and "
                f"this one has {count:,}; this server holds {self._max_bytes:,}"
            )
        self.num_bytes += count
        try:
            yield
        finally:
            self.num_bytes -= count


async def send_in_pieces(response: Response, send: Send) -> None:
    """Send an answer, each piece when the one before has left.

    Args:
        response: The answer, whole.
        send: Where it goes; it waits while the connection is full.
    """
    body = bytes(response.body)
    start = {"type": "http.response.start", "status": response.status_code}
    await send({**start, "headers": response.raw_headers})
    for begin in range(0, max(len(body), 1), _PIECE_BYTES):
        end = begin + _PIECE_BYTES
        is_more = end < len(body)
        piece = body[begin:end] if is_more or begin else body
        await send({"type": "http.response.body", "body": piece, "more_body": is_more})
