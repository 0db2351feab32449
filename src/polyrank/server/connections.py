"""Connections that do not keep to the rules: bounds on what each may hold, and for how long.

uvicorn's protocol parses and answers; here stands what it leaves open. Knows nothing of routes.
"""

import asyncio
import select
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 65_536
_PROBE_EVERY_S = 0.1
_PROBE_PAUSED_EVERY_S = 1.0
_RETRY = b"retry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\n" + _RETRY[16:]
_TOO_MANY = b"HTTP/1.1 503 Service Unavailable\r\n" + _RETRY
_GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"


class PlainParser(httptools.HttpRequestParser):
    """A parser that goes on in HTTP/1.1 where a client would like another protocol.

    RFC 9110, 7.8: a server may ignore the header Upgrade. curl and Java's client ask for h2c.
    httptools ends such a request at its head, whatever body it announces.
    """

    def __init__(self, protocol: "GuardedProtocol") -> None:
        """Begin with the first request of a connection, or with the next one."""
        super().__init__(protocol)
        self._protocol = protocol
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    @property
    def is_stopping(self) -> bool:
        """Whether it ends the request at its head."""
        return bool(super().should_upgrade())

    def should_upgrade(self) -> bool:
        """Return False: there is no other protocol here."""
        return False

    def feed_data(self, data: Any) -> None:
        """Parse bytes, with a new parser behind each request that asked to upgrade."""
        rest, parser = memoryview(data), self
        while rest:
            try:
                httptools.HttpRequestParser.feed_data(parser, rest)
            except httptools.HttpParserUpgrade as exc:
                rest = rest[exc.args[0] :]
                parser = self._protocol.replace_parser()
            else:
                return


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with the bounds that it lacks."""

    head_timeout_s = 30.0
    write_timeout_s = 30.0
    max_connections = 1000

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Begin with nothing received."""
        super().__init__(*args, **kwargs)
        self.parser: PlainParser = PlainParser(self)
        self._is_muted = False  # while a parser is told of a head that was read before
        self._framing = b""  # how the body is told that a parser stopped before
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._head_bytes = 0
        self._bytes_without_body = 0
        self._is_in_body = False
        self._is_ended = False
        self._is_watched = False
        self._is_refused = False
        self._unfinished: list[RequestResponseCycle] = []
        self._idle_since = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return all(cycle.response_complete for cycle in self._unfinished)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Begin to wait for the first head, if there is room for one more connection."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        if len(self.connections) > self.max_connections and not self._make_room():
            self._is_refused = True
            self._hang_up_with(_TOO_MANY)
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all that the client was waiting for."""
        for name in list(self._timers):
            self._stop(name)
        # of pipelined requests, uvicorn tells only the last one
        for cycle in self._unfinished:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override] # uvicorn's returns None
        """Go on if what has come is a whole request: a client may close its own side first."""
        is_whole = not self._is_in_body and not self.is_idle
        if not is_whole or self.scope["http_version"] != "1.1" or self.scheme == "https":
            return None
        self._is_ended = True
        self._watch_peer()
        return True

    def data_received(self, data: bytes) -> None:
        """Read what came, and hang up if a head, or what is around a body, has no end."""
        if self._is_refused:
            return
        self._head_bytes += len(data)
        self._bytes_without_body += len(data)
        super().data_received(data)
        is_too_long = "head" in self._timers and self._head_bytes > MAX_HEAD_BYTES
        # a trailer, or what a chunk's size is followed by
        if is_too_long or (self._is_in_body and self._bytes_without_body > MAX_HEAD_BYTES):
            self._hang_up_with(_HEAD_TOO_LARGE if self.is_idle or not self._is_in_body else b"")
        elif self.is_idle and not self._is_in_body and "head" not in self._timers:
            self._wait_for_head()  # blank lines before a request are no request

    def replace_parser(self) -> PlainParser:
        """Return a parser for what follows a head that asked to upgrade: its body, if any."""
        self.parser = PlainParser(self)
        if self._framing:
            self._is_muted = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + self._framing + b"\r\n")
            self._is_muted, self._framing = False, b""
        return self.parser

    def on_url(self, url: bytes) -> None:
        """Keep what is asked for."""
        if not self._is_muted:
            super().on_url(url)

    def on_message_begin(self) -> None:
        """Begin to wait for the head of a further request."""
        if self._is_muted:
            return
        super().on_message_begin()
        if "head" not in self._timers:
            self._wait_for_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, but none that comes behind a body: nothing here reads those."""
        if not self._is_in_body and not self._is_muted:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop waiting: the head is there."""
        if self._is_muted:
            return
        if self.parser.is_stopping:
            names = (b"content-length", b"transfer-encoding")
            lines = (b"%s: %s\r\n" % each for each in self.headers if each[0] in names)
            self._framing = b"".join(lines)
        self._stop("head")
        self._stop("linger")
        self._is_in_body = True
        self._bytes_without_body = 0
        super().on_headers_complete()
        self._unfinished = [each for each in self._unfinished if not each.response_complete]
        self._unfinished.append(self.cycle)
        if self.pipeline and not self._is_watched:
            self._start("peer", _PROBE_PAUSED_EVERY_S, self._probe_paused)

    def on_body(self, body: bytes) -> None:
        """Keep a piece of a body."""
        self._bytes_without_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin to count anew."""
        if self._framing:
            return  # of a request whose body another parser is to read
        self._is_in_body = False
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """See that the answer leaves, and that the client does not go on for ever with its body."""
        self._idle_since = self.loop.time()
        was_last = not self.pipeline
        super().on_response_complete()
        if self._is_ended and was_last:
            self.transport.close()
        self._start("linger", self.write_timeout_s, self._end_lingering)
        if self._is_in_body and was_last:
            self._start("body", self.head_timeout_s, self._end_body)

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, and see that the answer leaves."""
        super().send_400_response(msg)
        self._start("linger", self.write_timeout_s, self._end_lingering)

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read."""
        super().pause_writing()
        self._start("write", self.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop waiting: it has read some."""
        self._stop("write")
        super().resume_writing()

    def _start(self, name: str, seconds: float, call: Any) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, self._run, name, call)

    def _run(self, name: str, call: Any) -> None:
        del self._timers[name]
        call()

    def _stop(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()

    def _wait_for_head(self) -> None:
        self._head_bytes = 0
        self._start("head", self.head_timeout_s, self.transport.close)

    def _hang_up_with(self, answer: bytes) -> None:
        self._stop("head")
        self.transport.write(answer)
        self.transport.close()
        self._start("linger", self.write_timeout_s, self._end_lingering)

    def _end_lingering(self) -> None:
        """Hang up on a client that has not read the last of its answers."""
        if self.transport.get_write_buffer_size() and self.is_idle:
            self.transport.abort()

    def _end_body(self) -> None:
        if self._is_in_body and self.is_idle:
            self.transport.abort()

    def _make_room(self) -> bool:
        """Hang up on the connection that has been idle for longest; return whether there is one."""
        guarded = [each for each in self.connections if isinstance(each, GuardedProtocol)]
        idle = [each for each in guarded if each is not self and each.is_idle]
        if not idle:
            return False
        oldest = min(idle, key=lambda each: each._idle_since)
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    def _watch_peer(self) -> None:
        """Find out whether a client that sends no more still reads.

        From here, a client that has closed its sending side looks like one that is gone. An
        interim answer, which every client of HTTP/1.1 has to skip, tells: what is closed
        answers it with a reset.
        """
        if not self._is_watched:
            self._is_watched = True
            self._ask_to_go_on()
            self._start("peer", _PROBE_EVERY_S, self._probe_peer)

    def _probe_peer(self) -> None:
        if self._is_reset():
            self.transport.abort()
        else:
            self._start("peer", _PROBE_EVERY_S, self._probe_peer)

    def _probe_paused(self) -> None:
        """See that a client has gone whose further requests are not read yet, nor its end."""
        if self.is_idle:
            return
        if self._is_reset():
            self.transport.abort()
            return
        if self.flow.read_paused:
            self._ask_to_go_on()
        self._start("peer", _PROBE_PAUSED_EVERY_S, self._probe_paused)

    def _ask_to_go_on(self) -> None:
        running = [each for each in self._unfinished if not each.response_complete]
        is_new = all(each.scope["http_version"] == "1.1" for each in running)
        if is_new and not any(each.response_started for each in running):
            self.transport.write(_GO_ON)

    def _is_reset(self) -> bool:
        number = self.transport.get_extra_info("socket").fileno()
        if number < 0:
            return False
        asked = select.poll()
        asked.register(number, 0)  # errors and resets are always told
        return bool(asked.poll(0))
