"""HTTP with an end to waiting: for requests that arrive byte by byte, and for answers that nobody takes."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

#: Seconds from a request's first byte, or a connection's opening, to the end of its headers; and for what is left of a
#: request that is already answered.
HEAD_SECONDS = 10.0
#: Seconds without a byte of an answer taken; and for all of it, so that a byte now and then is not enough.
TAKE_SECONDS, ALL_SECONDS = 30.0, 300.0
#: Bytes that the system takes ahead of the other side, so that what is taken shows here soon.
AHEAD_BYTES = 2**16


#: What `TimedH11` uses of uvicorn's protocol, which uvicorn promises to nobody.
USED = ("cycle", "conn", "transport", "loop")
OVERRIDDEN = (
    "connection_made", "data_received", "on_response_complete", "pause_writing", "resume_writing", "connection_lost",
)  # fmt: skip


def fits(protocol: type = H11Protocol) -> bool:
    """Whether uvicorn's protocol still has what `TimedH11` builds on.

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
    except Exception:  # other arguments than today
        return False
    finally:
        loop.close()
    known = {*vars(made), *getattr(protocol, "__annotations__", ())}
    return known.issuperset(USED)


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    """Answers nothing."""


class TimedH11(H11Protocol):
    """Uvicorn's HTTP/1.1, which closes what is idle after an answer, and here also what is slow before and in one."""

    _late: asyncio.TimerHandle | None = None
    _untaken: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # type: ignore[override]
        """Waits for a request, but not for ever."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # whenever something is not taken, `pause_writing` is called
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, AHEAD_BYTES)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Takes a part of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """An answer is written; where the request still arrives, its rest is waited for, too."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def pause_writing(self) -> None:
        """The other side does not take an answer as fast as it comes: from now on it has to hurry."""
        super().pause_writing()
        self._wait_for_taking(self.loop.time() + ALL_SECONDS)

    def resume_writing(self) -> None:
        """All that was written is taken."""
        super().resume_writing()
        self._forget_taking()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the times."""
        super().connection_lost(exc)
        self._forget()
        self._forget_taking()

    def _watch(self) -> None:
        """Starts the time where the next move is the sender's, stops it where it is ours."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()

    def _wait_for_taking(self, end: float) -> None:
        left = self._left_to_take()

        def look() -> None:
            if self.loop.time() > end or self._left_to_take() >= left:
                self.transport.abort()
            else:
                self._wait_for_taking(end)

        self._untaken = self.loop.call_later(TAKE_SECONDS, look)

    def _forget_taking(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None

    def _left_to_take(self) -> int:
        transport: Any = self.transport  # one that writes, too
        return transport.get_write_buffer_size()
