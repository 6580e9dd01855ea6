"""HTTP with an end to waiting: for requests that arrive byte by byte, and for answers that nobody takes."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Seconds from a request's first byte, or a connection's opening, to the end of its headers; and for what is left of a
#: request that is already answered.
HEAD_SECONDS = 10.0
#: Seconds for an answer's last bytes to be taken.
TAKE_SECONDS = 30.0


class PatientH11(H11Protocol):
    """Uvicorn's HTTP/1.1, which closes what is idle after an answer, and here also what is slow before one."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # type: ignore[override]
        """Waits for a request, but not for ever."""
        super().connection_made(transport)
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

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the time."""
        super().connection_lost(exc)
        self._forget()

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection, also where the other side does not take what was answered."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(TAKE_SECONDS, self.transport.abort)

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
