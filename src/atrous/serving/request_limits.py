"""Limits on requests, the error response for a refused request, and counters of waiting pictures and their memory."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from atrous.errors import AtrousError, counted


@dataclass(frozen=True)
class Limits:
    """Largest sizes, counts and times that the server accepts.

    Args:
        waiting: largest number of pictures in the server at once: queued, being decoded or being segmented.
        picture_bytes: largest size of the files of one request together, in bytes.
        pixels: largest number of pixels that the network computes for one response, over all scales, the mirrored
            picture and overlapping tiles.
        voxels: largest number of voxels that the network computes for one response, over all planes, scales and
            mirrored slices; also the largest number of values of a volume, over all contrasts.
        seconds: longest time from the last byte of a picture to its response, in seconds.
        sending_seconds: longest time for a picture to arrive, in seconds.
        held_bytes: largest total size of all received files that are in the server at once, in bytes.
        decoded_bytes: largest total size of all decoded pictures, masks and responses in memory at once, in bytes; a
            single picture that needs more is refused.

    Raises:
        AtrousError: a limit is not above 0.
    """

    waiting: int = 64
    picture_bytes: int = 32 * 2**20
    pixels: int = 50_000_000
    voxels: int = 256_000_000
    seconds: float = 60.0
    sending_seconds: float = 30.0
    held_bytes: int = 512 * 2**20
    decoded_bytes: float = math.inf

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise AtrousError(f"the limit on {name.replace('_', ' ')} must be more than 0, got {value}.")


class Problem(Exception):
    """An error response (RFC 9457, Problem Details for HTTP APIs).

    Args:
        status: HTTP status code.
        detail: sentence that explains the error to a person.
        headers: further headers of the response.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}

    def record(self) -> dict[str, Any]:
        """Returns the body of the response, as a dictionary for JSON."""
        title = HTTPStatus(self.status).phrase
        return {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}


class Admission:
    """Counts the pictures and bytes in the server, and refuses those above the limits.

    Args:
        limits: limits to enforce.

    Attributes:
        waiting: number of pictures in the server.
        held: total size of the received files in the server, in bytes.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.waiting, self.held = limits, 0, 0

    @property
    def full(self) -> bool:
        """Whether the next picture would be refused."""
        return self.waiting >= self.limits.waiting

    def check(self) -> None:
        """Refuses a picture before it is received, if the queue is full.

        Raises:
            Problem: 429, the queue is full.
        """
        if self.full:
            raise self._later(f"the limit of {counted(self.limits.waiting, 'waiting picture')} is reached")

    @contextmanager
    def one(self) -> Iterator[None]:
        """Counts one picture as waiting inside the `with` block.

        Raises:
            Problem: 429, the queue is full.
        """
        self.check()
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def hold(self, size: int) -> None:
        """Counts received bytes.

        Args:
            size: number of bytes; a negative number releases bytes that were counted before.

        Raises:
            Problem: 429, the received files would be larger than `held_bytes` in total.
        """
        if size > 0 and self.held + size > self.limits.held_bytes:
            raise self._later(f"{self.held / 2**20:.0f} MiB of files are waiting already")
        self.held += size

    def _later(self, reason: str) -> Problem:
        return Problem(429, f"{reason}: try again in a second.", {"Retry-After": "1"})


class Memory:
    """Memory budget that all pictures share; a picture waits until enough of it is free.

    Args:
        total: size of the budget, in bytes.

    Attributes:
        used: bytes that are reserved now.
    """

    def __init__(self, total: float) -> None:
        self.total, self.used = total, 0.0
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def take(self, size: float, noun: str = "picture") -> AsyncIterator[None]:
        """Reserves memory inside the `async with` block; requests are served in the order of their arrival.

        Args:
            size: bytes to reserve.
            noun: kind of the upload, for the message.

        Raises:
            Problem: 413, `size` is above the whole budget.
        """
        if size > self.total:
            raise Problem(
                413,
                f"this {noun} needs {size / 1e9:.2f} GB of memory, and the server has "
                f"{self.total / 1e9:.2f} GB: send a smaller {noun}.",
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
