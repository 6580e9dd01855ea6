"""HTTP/1.1 with timeouts for clients that send a request slowly or do not read the response."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

#: Longest time for the headers of a request, in seconds. It starts when the connection is opened, or when the first
#: byte of the request arrives. The same limit holds for the rest of a request whose response is already sent.
HEAD_SECONDS = 10.0
#: Longest time in which the client reads no byte of a response, and longest time to read all of it, in seconds. The
#: second limit stops clients that read one byte now and then.
TAKE_SECONDS, ALL_SECONDS = 30.0, 300.0
#: Largest number of unsent bytes in the kernel's send buffer. With a small buffer, the unsent bytes in the server show
#: how much the client has read.
AHEAD_BYTES = 2**16


#: Attributes and methods of uvicorn's protocol that `TimedH11` uses; they are not part of uvicorn's public API.
USED = ("cycle", "conn", "transport", "loop")
OVERRIDDEN = (
    "connection_made", "data_received", "on_response_complete", "pause_writing", "resume_writing", "connection_lost",
)  # fmt: skip


def fits(protocol: type = H11Protocol) -> bool:
    """Returns whether uvicorn's protocol still has the attributes and methods that `TimedH11` uses.

    Args:
        protocol: uvicorn's class for HTTP/1.1.
    """
    if not all(callable(getattr(protocol, name, None)) for name in OVERRIDDEN):
        return False
    loop = asyncio.new_event_loop()
    try:
        made = protocol(
            config=Config(_no_app, log_config=None, lifespan="off", ws="none"),
            server_state=ServerState(),
            app_state={},
            _loop=loop,
        )
    except Exception:  # a newer version takes other arguments
        return False
    finally:
        loop.close()
    known = {*vars(made), *getattr(protocol, "__annotations__", ())}
    return known.issuperset(USED)


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    """Sends no response."""


class TimedH11(H11Protocol):
    """Uvicorn's HTTP/1.1 protocol that also closes connections which are slow to send a request or to read a response.

    Uvicorn itself closes only connections that are idle after a response.
    """

    _request_timer: asyncio.TimerHandle | None = None
    _response_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # type: ignore[override]
        """Starts the timeout of the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # any unsent byte calls `pause_writing`
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, AHEAD_BYTES)
        self._update_request_timer()

    def data_received(self, data: bytes) -> None:
        """Receives a part of a request."""
        super().data_received(data)
        self._update_request_timer()

    def on_response_complete(self) -> None:
        """Starts the timeout for the rest of a request whose response is already written."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._update_request_timer()

    def pause_writing(self) -> None:
        """Starts the timeout of the response, because the client reads it more slowly than the server writes it."""
        super().pause_writing()
        self._start_response_timer(self.loop.time() + ALL_SECONDS)

    def resume_writing(self) -> None:
        """Stops the timeout of the response, because the client has read everything that was written."""
        super().resume_writing()
        self._stop_response_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops all timeouts."""
        super().connection_lost(exc)
        self._stop_request_timer()
        self._stop_response_timer()

    def _update_request_timer(self) -> None:
        """Starts the timer while the server waits for the client; stops it while the client waits for the server."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_request_timer()
        elif self._request_timer is None and not self.transport.is_closing():
            self._request_timer = self.loop.call_later(HEAD_SECONDS, self._close_slow_request)

    def _stop_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None

    def _close_slow_request(self) -> None:
        self._request_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def _start_response_timer(self, end: float) -> None:
        unsent = self._unsent_bytes()

        def check_progress() -> None:
            if self.loop.time() > end or self._unsent_bytes() >= unsent:
                self.transport.abort()
            else:
                self._start_response_timer(end)

        self._response_timer = self.loop.call_later(TAKE_SECONDS, check_progress)

    def _stop_response_timer(self) -> None:
        if self._response_timer is not None:
            self._response_timer.cancel()
            self._response_timer = None

    def _unsent_bytes(self) -> int:
        transport: Any = self.transport  # a WriteTransport, although uvicorn annotates a Transport
        return transport.get_write_buffer_size()
