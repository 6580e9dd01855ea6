"""Handles a request: receives the picture, decodes it, queues it for inference and encodes the mask."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, Response
from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from atrous.data.pictures import TooLarge, decode_pixels, decoded_size
from atrous.errors import AtrousError, nearest
from atrous.inference.picture_input import Found, doubts_of
from atrous.inference.prediction import Prediction
from atrous.inference.segmenter import Segmenter
from atrous.inference.tile_grid import overlap_of
from atrous.inference.value_range import ASK_FOR_RANGE
from atrous.input_spec import IMAGE, Input
from atrous.memory_errors import is_out_of_memory
from atrous.serving import response_formats
from atrous.serving.drop_tracebacks import drop_tracebacks
from atrous.serving.inference_queue import InferenceQueue, Job
from atrous.serving.model_store import InferenceOptions, Model, ModelStore
from atrous.serving.prometheus_metrics import Metrics
from atrous.serving.request_limits import Admission, Limits, Memory, Problem
from atrous.serving.upload_format_check import how_to_send, packing_of

#: Largest size of a form without the picture's file, in bytes.
FORM_BYTES = 2**16
#: Name of the form field of the picture's file in the documentation; other names are accepted, too.
FILE_FIELD = "picture"
#: Detail of the error response when memory runs out.
TOO_LITTLE_MEMORY = "this picture needs more memory than the server has: send a smaller picture."
#: Largest number of decoded pictures at once, without and with batches. They need much memory; these numbers are just
#: large enough to keep the network busy.
AHEAD, AHEAD_STACKED = 4, 32

#: Number of copies of a prepared picture in memory; bytes per pixel of a mask and its encoded response together.
COPIES, ANSWER_BYTES = 2, 16

Result = TypeVar("Result")


class RequestSettings:
    """Settings of one request to segment a picture.

    Args:
        model: model that segments the picture.
        options: scales, flip, CRF, value range and tiles.
        response: format of the response.
        parameters: names of all query parameters, for messages about forms.

    Attributes:
        pixel_factor: number of pixels that the network computes for each pixel of the picture; for example, 2 with the
            mirrored picture, or 4 for a model that enlarges pictures twofold.

    Raises:
        Problem: the overlap is more than half a tile.
    """

    def __init__(
        self,
        model: Model,
        options: InferenceOptions,
        response: response_formats.ResponseOptions,
        parameters: Collection[str] = (),
    ) -> None:
        self.model, self.options, self.response, self.parameters = model, options, response, parameters
        tile, overlap = options.tile, options.overlap
        if overlap is not None and 2 * overlap > (tile or 512):
            raise Problem(422, f"an overlap of {overlap} px is more than half of a tile of {tile or 512} px.")
        again = (1 / (1 - overlap_of(tile, overlap) / tile)) ** 2 if tile else 1.0
        if tile and model.segmenter.pools:  # image pooling needs a first pass over all tiles
            again *= 2
        enlarged = model.segmenter.info.preprocessing.enlarge**2
        self.pixel_factor = sum(scale**2 for scale in options.scales) * (2 if options.flip else 1) * again * enlarged


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
        _check_encoding(request)
        try:
            content = await self._receive(request, settings)
            return await self._until_disconnect(request, self._admit(content, settings, _how_to_send(request)))
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
            raise _too_many_bytes(limits)
        try:
            async with asyncio.timeout(limits.sending_seconds):
                async for part in request.stream():
                    self.admission.hold(len(part))
                    content += part
                    if len(content) > limits.picture_bytes + FORM_BYTES:
                        raise _too_many_bytes(limits)
            files = await self._files_in(request, bytes(content), settings)
        except TimeoutError:
            self.admission.hold(-len(content))
            raise Problem(408, f"the picture did not arrive within {limits.sending_seconds:g} s.") from None
        except BaseException:
            self.admission.hold(-len(content))
            raise
        size = sum(map(len, files))
        self.admission.hold(size - len(content))
        if size > limits.picture_bytes:
            self.admission.hold(-size)
            raise _too_many_bytes(limits)
        return files

    async def _files_in(self, request: Request, content: bytes, settings: RequestSettings) -> tuple[bytes, ...]:
        """Returns the request body as the only file, or the files of a form."""
        further = [one.name for one in settings.model.segmenter.info.preprocessing.inputs[1:]]
        if not request.headers.get("content-type", "").lower().startswith("multipart/"):
            if further:
                raise Problem(422, f"this model needs more than one file: {_form_of(further)}.")
            return (content,)
        return await self._in_pool(_files_in_form, request.headers, content, settings.parameters, further)

    async def _admit(self, content: tuple[bytes, ...], settings: RequestSettings, upload_hint: str) -> Response:
        """Segments or refuses a picture. The picture and its bytes are counted until all work on it has ended."""
        try:
            with self.admission.one():
                return await self._answer(content, settings, upload_hint)
        finally:
            self.admission.hold(-sum(map(len, content)))

    async def _until_disconnect(self, request: Request, work: Any) -> Response:
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
                f"the response took longer than {self._limits.seconds:g} s: send a smaller picture or try again later.",
                {"Retry-After": "10"},
            )
        finally:
            answer.cancel()
            left.cancel()

    async def _answer(self, content: tuple[bytes, ...], settings: RequestSettings, upload_hint: str) -> Response:
        began = perf_counter()
        try:
            size = await self._in_pool(self._bytes_of, content, settings)
        except TooLarge as error:
            raise Problem(413, str(error)) from error
        except MemoryError as error:  # before AtrousError, because OutOfMemory is both
            raise Problem(413, TOO_LITTLE_MEMORY) from error
        except AtrousError as error:
            packing = packing_of(content[0])
            reason = str(error) if packing is None else f"this is {packing}, not a picture. {upload_hint}"
            raise Problem(422, reason) from error
        async with self._ahead, self._memory.take(size):
            started = perf_counter()
            try:
                segmenter, found, prepared, note = await self._in_pool(self._decode, content, settings)
                decoded = perf_counter()
                job = Job(segmenter, prepared, found.valid)
                mask = await self._queue.segment(job)
                segmented = perf_counter()
                body = await self._in_pool(
                    response_formats.write, Prediction(mask, found.shown, segmenter.info), settings.response
                )
            except TooLarge as error:
                raise Problem(413, str(error)) from error
            except (AtrousError, MemoryError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise Problem(413, TOO_LITTLE_MEMORY) from error
                if isinstance(error, AtrousError):
                    raise Problem(422, str(error)) from error
                raise
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
            **({"X-Note": note} if note else {}),
        }
        return Response(body, media_type=response_formats.FORMATS[settings.response.form], headers=headers)

    def _bytes_of(self, content: tuple[bytes, ...], settings: RequestSettings) -> float:
        """Returns the peak memory of a request from decoding to response, in bytes, without the network's memory."""
        preprocessing = settings.model.segmenter.info.preprocessing
        sizes = [
            decoded_size(file, self._most_pixels(settings), _name_of(one), one.pages)
            for file, one in zip(content, preprocessing.inputs, strict=True)
        ]
        pixels, decoded = sizes[0][0], sum(size for _, size in sizes)
        prepared = preprocessing.channels * np.dtype(preprocessing.dtype).itemsize
        return 2 * decoded + pixels * (COPIES * prepared + ANSWER_BYTES)

    def _most_pixels(self, settings: RequestSettings) -> int:
        # At scales below 1, the limit applies to the picture itself, because the full-size picture is in memory, too.
        return int(self._limits.pixels / max(settings.pixel_factor, 1.0))

    def _decode(
        self, content: tuple[bytes, ...], settings: RequestSettings
    ) -> tuple[Segmenter, Found, np.ndarray, str | None]:
        """Decodes a picture; returns the segmenter, the stored and the prepared picture, and a note or None."""
        segmenter = settings.model.segmenter_for(settings.options)  # the first CRF takes seconds to load
        preprocessing = segmenter.info.preprocessing
        stored = {
            one.name: decode_pixels(file, self._most_pixels(settings), _name_of(one), one.pages)
            for file, one in zip(content, preprocessing.inputs, strict=True)
        }
        found = segmenter.found(stored)
        doubts = [note.message for note in doubts_of("the picture", stored[IMAGE], preprocessing)]
        doubts += [doubt] if (doubt := segmenter.preparation.doubt_of(found.image, ASK_FOR_RANGE)) else []
        return segmenter, found, segmenter.preparation.filled(found, ASK_FOR_RANGE), " ".join(doubts) or None

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
                del future  # the traceback of its error refers to this call: see drop_tracebacks


async def _disconnected(request: Request) -> None:
    """Waits until the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_encoding(request: Request) -> None:
    """Refuses a compressed body: pictures are compressed already, and a small body could expand to fill the memory."""
    encoding = request.headers.get("content-encoding", "").strip()
    if encoding and encoding.lower() != "identity":
        raise Problem(422, f"the picture was sent with Content-Encoding: {encoding[:40]}. {_how_to_send(request)}")


def _how_to_send(request: Request) -> str:
    return how_to_send(str(request.url), key="authorization" in request.headers)


def _files_in_form(
    headers: Headers, content: bytes, parameters: Collection[str] = (), further: Sequence[str] = ()
) -> tuple[bytes, ...]:
    """Returns the files in a form. Runs in a thread, because parsing a form of only boundaries takes seconds.

    Args:
        headers: headers of the request.
        content: body of the request.
        parameters: names of all query parameters, for messages.
        further: names of the model's inputs other than the picture; their files are in fields of these names.

    Returns:
        The file of the picture, then the files of the further inputs.

    Raises:
        Problem: the body is not a form, it has too few or too many files, or it has a text field, which is not read.
    """

    async def parts() -> AsyncGenerator[bytes, None]:
        yield content

    async def parse() -> FormData:
        parser = MultiPartParser(headers, parts(), max_files=1 + len(further), max_fields=8, max_part_size=FORM_BYTES)
        parser.spool_max_size = len(content) + 1  # the parser writes no temporary file
        return await parser.parse()

    try:
        form = asyncio.run(parse())
    except MultiPartException as error:
        raise Problem(400, f"the form cannot be read: {error.message}") from error
    except Exception as error:  # the parser raises many types of errors on malicious forms
        raise Problem(400, "the form cannot be read.") from error
    files = [value for _, value in form.multi_items() if not isinstance(value, str)]
    for name, value in form.multi_items():
        if isinstance(value, str):
            for file in files:
                file.file.close()
            raise Problem(422, _text_field(name, value, parameters))
    if not files and not further:
        raise Problem(400, "the form contains no file: send the picture as a file of the form, or as the whole body.")
    named = [(name, value) for name, value in form.multi_items() if not isinstance(value, str)]
    read = []
    for name, value in named:
        with value.file as file:
            read.append((name, file.read()))
    if not further:
        return (read[0][1],)
    pictures = [file for name, file in read if name in (FILE_FIELD, IMAGE)]
    others = {name: file for name, file in read if name in further}
    if len(pictures) != 1 or len(others) != len(further) or len(read) != 1 + len(further):
        given = ", ".join(name[:40] for name, _ in read) or "no file"
        raise Problem(422, f"this model needs more than one file: {_form_of(further)}. The form has {given}.")
    return (pictures[0], *(others[name] for name in further))


def _form_of(further: Sequence[str]) -> str:
    """Returns the instruction to send the files of a model that has these further inputs."""
    fields = " ".join(f"-F {name}=@{name}.png" for name in further)
    return f"send a form with a file for each input; with curl: -F {FILE_FIELD}=@picture.png {fields}"


def _name_of(one: Input) -> str:
    """Returns the name of an input in messages."""
    return "the picture" if one.name == IMAGE else f"the {one.name}"


def _text_field(name: str, value: str, parameters: Collection[str]) -> str:
    """Returns the error message about a text field in a form."""
    shown = name[:100]
    if name == FILE_FIELD:
        return f"the form's field {FILE_FIELD} is text, not a file. With curl, send -F {FILE_FIELD}=@picture.jpg."
    near = nearest(name, parameters)
    if near is None:
        known = f"unknown form field '{shown}': a form contains only the picture's file, in the field {FILE_FIELD}; "
        return f"{known}the query parameters are {', '.join(sorted(parameters))}."
    return (
        f"unknown form field '{shown}': a form contains only the picture's file. Did you mean the query parameter "
        f"'{near}', as in '?{near}={value[:40]}'?"
    )


def _too_many_bytes(limits: Limits) -> Problem:
    return Problem(413, f"a picture's file may have at most {limits.picture_bytes / 2**20:g} MiB.")
