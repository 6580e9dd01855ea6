"""Handles a request: receives the picture or volume, decodes it, queues it for inference and encodes the mask."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import Any, TypeVar

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from atrous.data.pictures import TooLarge
from atrous.errors import AtrousError
from atrous.memory_errors import is_out_of_memory
from atrous.serving import response_formats
from atrous.serving.drop_tracebacks import drop_tracebacks
from atrous.serving.form_files import FORM_BYTES, files_in_form, form_of
from atrous.serving.inference_queue import InferenceQueue
from atrous.serving.model_store import ModelStore
from atrous.serving.note_header import note_header
from atrous.serving.picture_upload import PictureUpload
from atrous.serving.prometheus_metrics import Metrics
from atrous.serving.request_limits import Admission, Limits, Memory, Problem
from atrous.serving.request_settings import RequestSettings
from atrous.serving.upload_format_check import how_to_send
from atrous.serving.volume_upload import VolumeUpload

#: Largest number of decoded pictures at once, without and with batches. Decoded pictures need much memory, so these
#: numbers are just large enough to keep the network busy.
AHEAD, AHEAD_STACKED = 4, 32

Result = TypeVar("Result")


class RequestHandler:
    """Turns requests with pictures into responses with masks.

    Args:
        store: the models.
        queue: inference queue that runs the models.
        limits: limits on requests.
        metrics: counters of the server.

    Attributes:
        admission: counter of the pictures in the server. It also counts abandoned work that cannot be stopped.
        cut: number of requests that were cancelled because the server stopped.
    """

    def __init__(self, store: ModelStore, queue: InferenceQueue, limits: Limits, metrics: Metrics) -> None:
        self.admission, self.cut = Admission(limits), 0
        self._queue, self._limits, self._metrics = queue, limits, metrics
        threads = max(2, os.cpu_count() or 2)
        self._memory = Memory(limits.decoded_bytes)
        self._pool = ThreadPoolExecutor(threads, "pictures")
        self._free = asyncio.Semaphore(threads)
        self._ahead = asyncio.Semaphore(AHEAD_STACKED if any(model.segmenter.stacks for model in store) else AHEAD)

    async def serve(self, request: Request, settings: RequestSettings) -> Response:
        """Segments the picture of a request; the work stops when the client disconnects or the time limit is reached.

        Args:
            request: the request; its body is the picture, or a form with one file for each input of the model.
            settings: model, options and response format of the request.

        Raises:
            Problem: the request is refused, a limit is reached, or the server is stopping.
            ClientDisconnect: the client has closed the connection.
        """
        self.admission.check()
        _check_encoding(request, settings.noun)
        try:
            content = await self._receive(request, settings)
            work = self._admit(content, settings, _how_to_send(request, settings.noun))
            return await self._until_disconnect(request, work, settings.noun)
        except asyncio.CancelledError:
            self.cut += 1
            raise Problem(503, "the server is stopping.", {"Retry-After": "1"}) from None
        except Problem as error:
            drop_tracebacks(error)
            raise

    def close(self) -> None:
        """Cancels the work that has not started; further work is refused."""
        self._pool.shutdown(cancel_futures=True)

    async def _receive(self, request: Request, settings: RequestSettings) -> tuple[bytes, ...]:
        """Receives one file for each input of the model, and counts their bytes as held."""
        limits, content = self._limits, bytearray()
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limits.picture_bytes + FORM_BYTES:
            raise _too_many_bytes(limits, settings.noun)
        try:
            async with asyncio.timeout(limits.sending_seconds):
                async for part in request.stream():
                    self.admission.hold(len(part))
                    content += part
                    if len(content) > limits.picture_bytes + FORM_BYTES:
                        raise _too_many_bytes(limits, settings.noun)
            files = await self._files_in(request, bytes(content), settings)
        except TimeoutError:
            self.admission.hold(-len(content))
            raise Problem(408, f"the {settings.noun} did not arrive within {limits.sending_seconds:g} s.") from None
        except BaseException:
            self.admission.hold(-len(content))
            raise
        size = sum(map(len, files))
        self.admission.hold(size - len(content))
        if size > limits.picture_bytes:
            self.admission.hold(-size)
            raise _too_many_bytes(limits, settings.noun)
        return files

    async def _files_in(self, request: Request, content: bytes, settings: RequestSettings) -> tuple[bytes, ...]:
        """Returns the request body as the only file, or the files of a form."""
        further = [one.name for one in settings.model.segmenter.info.preprocessing.inputs[1:]]
        if not request.headers.get("content-type", "").lower().startswith("multipart/"):
            if further:
                raise Problem(422, f"this model needs more than one file: {form_of(further)}.")
            return (content,)
        return await self._in_pool(files_in_form, request.headers, content, settings.parameters, further)

    async def _admit(self, content: tuple[bytes, ...], settings: RequestSettings, upload_hint: str) -> Response:
        """Segments or refuses a picture. The picture and its bytes are counted until all work on it has ended."""
        try:
            with self.admission.one():
                return await self._answer(content, settings, upload_hint)
        finally:
            self.admission.hold(-sum(map(len, content)))

    async def _until_disconnect(self, request: Request, work: Any, noun: str) -> Response:
        """Returns the result of the work, unless the client disconnects or the time limit is reached first."""
        answer, left = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({answer, left}, timeout=self._limits.seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if left.done():
                self._metrics.abandoned.inc()
                raise ClientDisconnect
            raise Problem(
                503,
                f"the response took longer than {self._limits.seconds:g} s: send a smaller {noun} or try again later.",
                {"Retry-After": "10"},
            )
        finally:
            answer.cancel()
            left.cancel()

    async def _answer(self, content: tuple[bytes, ...], settings: RequestSettings, upload_hint: str) -> Response:
        kind = VolumeUpload if settings.volumes else PictureUpload
        upload = kind(content, settings, self._limits, upload_hint)
        try:
            with _as_problems(settings.noun):
                return await self._segment(upload, settings)
        finally:
            upload.close()

    async def _segment(self, upload: PictureUpload | VolumeUpload, settings: RequestSettings) -> Response:
        began = perf_counter()
        size = await self._in_pool(upload.memory)
        async with self._ahead, self._memory.take(size, settings.noun):
            started = perf_counter()
            job, note = await self._in_pool(upload.decode)
            decoded = perf_counter()
            mask = await self._queue.segment(job)
            segmented = perf_counter()
            body = await self._in_pool(upload.encode, mask)
        ended = perf_counter()
        self._metrics.seconds.labels(settings.model.name).observe(ended - began)
        self._metrics.pixels.labels(settings.model.name).inc(mask.size)
        times = {
            "line": started - began + max(0.0, job.began - decoded),
            "decode": decoded - started,
            "network": job.seconds,
            "write": ended - segmented,
        }
        headers = {
            "Server-Timing": ", ".join(f"{name};dur={1000 * seconds:.1f}" for name, seconds in times.items()),
            "X-Model-Version": settings.model.stamp,
            "Vary": "Accept",
            **note_header(note),
        }
        return Response(body, media_type=response_formats.FORMATS[settings.response.form], headers=headers)

    async def _in_pool(self, work: Callable[..., Result], *given: Any) -> Result:
        """Runs work on a thread of the pool; a cancelled call waits for its work, because threads cannot be stopped.

        The call waits for a free thread here and not in the pool's own queue, because a cancelled call would stay in
        that queue and keep its memory.
        """
        async with self._free:
            future = self._pool.submit(work, *given)
            try:
                return await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                with suppress(Exception):
                    await asyncio.wrap_future(future)
                raise
            finally:
                del future  # the traceback of the error refers to this call: see drop_tracebacks


async def _disconnected(request: Request) -> None:
    """Waits until the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_encoding(request: Request, noun: str) -> None:
    """Refuses a compressed body: pictures are compressed already, and a small body could expand to fill the memory."""
    encoding = request.headers.get("content-encoding", "").strip()
    if encoding and encoding.lower() != "identity":
        hint = _how_to_send(request, noun)
        raise Problem(422, f"the {noun} was sent with Content-Encoding: {encoding[:40]}. {hint}")


def _how_to_send(request: Request, noun: str) -> str:
    file = "scan.nii.gz" if noun == "volume" else "picture.jpg"
    return how_to_send(str(request.url), key="authorization" in request.headers, file=file)


def _too_many_bytes(limits: Limits, noun: str) -> Problem:
    return Problem(413, f"a {noun}'s file may have at most {limits.picture_bytes / 2**20:g} MiB.")


@contextmanager
def _as_problems(noun: str) -> Iterator[None]:
    """Turns an error of the work on an upload into its error response.

    Args:
        noun: kind of the upload, for messages.

    Raises:
        Problem: 413, the upload is too large; or 422, it cannot be read or segmented.
    """
    try:
        yield
    except TooLarge as error:
        raise Problem(413, str(error)) from error
    except (AtrousError, MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise Problem(413, f"this {noun} needs more memory than the server has: send a smaller {noun}.") from error
        if isinstance(error, AtrousError):
            raise Problem(422, str(error)) from error
        raise
