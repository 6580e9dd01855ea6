"""What a server takes from strangers, and how it says no."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from atrous.errors import AtrousError


@dataclass(frozen=True)
class Limits:
    """What is taken at most.

    Args:
        waiting: pictures that are decoded, segmented or in line for it, at once.
        picture_bytes: of one picture's file.
        pixels: that a network looks at for one answer: the picture's, at all scales, mirrored and in tiles.
        seconds: from a picture's last byte to its answer.
        sending_seconds: that a picture may take to arrive.
        held_bytes: of all pictures' files that arrive or wait.
        decoded_bytes: of all pictures that are decoded at once, with their masks and answers; a picture that alone
            takes more is refused.

    Raises:
        AtrousError: one that is not positive.
    """

    waiting: int = 64
    picture_bytes: int = 32 * 2**20
    pixels: int = 50_000_000
    seconds: float = 60.0
    sending_seconds: float = 30.0
    held_bytes: int = 512 * 2**20
    decoded_bytes: float = math.inf

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise AtrousError(f"the limit on {name.replace('_', ' ')} must be more than 0, got {value}.")


class Problem(Exception):
    """A request that is not answered as it wished (RFC 9457, Problem Details for HTTP APIs).

    Args:
        status: of HTTP.
        detail: a sentence for a person.
        headers: of the answer.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}

    def record(self) -> dict[str, Any]:
        """What the answer's body says."""
        title = HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}


class Admission:
    """Counts what is inside, and refuses what would be too much.

    Args:
        limits: to be kept.

    Attributes:
        waiting: pictures inside.
        held: bytes of files inside.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.waiting, self.held = limits, 0, 0

    @property
    def full(self) -> bool:
        """Whether no picture would be let in."""
        return self.waiting >= self.limits.waiting

    def check(self) -> None:
        """Before a picture is received: whether it would be let in now.

        Raises:
            Problem: 429, the line is full.
        """
        if self.full:
            raise self._later(f"{self.waiting} pictures wait already, and no more may")

    @contextmanager
    def one(self) -> Iterator[None]:
        """Lets a picture in, and out again.

        Raises:
            Problem: 429, the line is full.
        """
        self.check()
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def hold(self, size: int) -> None:
        """Counts bytes that were received; they are to be given back by a negative number.

        Raises:
            Problem: 429, too many are held already.
        """
        if size > 0 and self.held + size > self.limits.held_bytes:
            raise self._later(f"pictures of {self.held / 2**20:.0f} MiB wait already")
        self.held += size

    def _later(self, reason: str) -> Problem:
        return Problem(429, f"{reason}: try again in a second.", {"Retry-After": "1"})


class Memory:
    """Memory that pictures share: each waits until there is enough of it.

    Args:
        total: bytes.

    Attributes:
        used: bytes that are taken now.
    """

    def __init__(self, total: float) -> None:
        self.total, self.used = total, 0.0
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def take(self, size: float) -> AsyncIterator[None]:
        """Takes bytes, and gives them back; whoever asks first is served first.

        Args:
            size: bytes.

        Raises:
            Problem: 413, more than there is in all.
        """
        if size > self.total:
            raise Problem(
                413,
                f"this picture takes {size / 1e9:.2f} GB while it is decoded and answered, and there are "
                f"{self.total / 1e9:.2f} GB: send a smaller one.",
            )
        async with self._turn:
            while self.used + size > self.total:
                self._freed.clear()
                await self._freed.wait()
            self.used += size
        try:
            yield
        finally:
            self.used -= size
            self._freed.set()
