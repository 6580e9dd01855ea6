"""The web application: its addresses, their parameters, and their error responses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
from jinja2 import Environment, PackageLoader
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from atrous.data.volumes.volume_view import VIEWER
from atrous.errors import AtrousError, counted, unknown_name
from atrous.inference.tile_grid import GRID
from atrous.serving import response_formats
from atrous.serving.inference_queue import InferenceQueue
from atrous.serving.model_store import InferenceOptions, Model, ModelStore
from atrous.serving.prometheus_metrics import Metrics
from atrous.serving.request_handler import RequestHandler, RequestSettings
from atrous.serving.request_limits import Problem
from atrous.version import __version__

HERE = Path(__file__).parent
#: Media types of the page's files by file name suffix.
MEDIA_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8"}
MEDIA_TYPES[".js"] = "text/javascript; charset=utf-8"
#: The keys of `response_formats.FORMATS`.
Form = Literal["mask", "indices", "overlay", "areas", "rle", "polygons", "nifti", "dicom-seg", "view"]
#: "model" and the presets of `DenseCRF`. Their names are repeated here because importing `DenseCRF` takes seconds.
Crf = Literal["model", "deeplabv1", "deeplabv2", "pydensecrf"]
#: Smallest and largest scale of a picture.
SCALES = (0.25, 2.0)
#: One to eight numbers, separated by commas.
SCALES_PATTERN = r"^[0-9]{1,2}(\.[0-9]{1,4})?(,[0-9]{1,2}(\.[0-9]{1,4})?){0,7}$"

#: Two numbers, separated by a comma.
RANGE_PATTERN = r"^-?[0-9]{1,9}(\.[0-9]{1,9})?,-?[0-9]{1,9}(\.[0-9]{1,9})?$"

#: OpenAPI description of every error response.
PROBLEM = {
    "application/problem+json": {
        "schema": {
            "type": "object",
            "properties": {
                "type": {"type": "string"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string", "description": "sentence that explains the error"},
            },
        }
    }
}
PROBLEMS = {
    400: "the request cannot be parsed",
    401: "the key is missing or wrong",
    403: "the client, or the host name that it used, has no access",
    404: "there is no such model",
    406: "the server supports none of the formats in the header Accept",
    408: "the picture took too long to arrive",
    413: "the request has too many bytes, pixels or voxels",
    422: "the file is not a picture or a volume, or a value is out of range",
    429: "too many pictures wait; Retry-After gives the seconds to wait before the next try",
    503: "the response took too long, or the server accepts no pictures now",
}
RESPONSES: dict[int | str, Any] = {
    status: {"description": reason, "content": PROBLEM} for status, reason in PROBLEMS.items()
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
PICTURE_BODY = {
    "required": True,
    "description": "A picture (JPEG, PNG, WebP, TIFF, BMP or GIF), as the request body or as the only file of a form. "
    "For a model of volumes, whose `planes` are not empty: a NIfTI file (.nii, .nii.gz) or a zip of a DICOM series. "
    "For a model with several inputs: a form with one file for each input, in fields with the names of the inputs.",
    "content": {
        "image/*": BINARY,
        "application/octet-stream": BINARY,
        "application/gzip": BINARY,
        "application/zip": BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"picture": {"type": "string", "format": "binary"}},
                "required": ["picture"],
            }
        },
    },
}
SEGMENTED: dict[int | str, Any] = {
    200: {
        "description": "The mask, in the requested format.",
        "content": {
            kind: {"schema": {"type": "object"}} if kind.endswith("json") else BINARY
            for kind in (*response_formats.ACCEPTED, *response_formats.VOLUME_ACCEPTED)
        },
    },
    **RESPONSES,
}


def make_app(store: ModelStore, queue: InferenceQueue, request_handler: RequestHandler, metrics: Metrics) -> FastAPI:
    """Makes the web application, without its access control.

    Args:
        store: the models.
        queue: inference queue that runs the models.
        request_handler: handler of the requests to segment a picture.
        metrics: counters of the server.
    """
    app = FastAPI(
        title="atrous",
        version=__version__,
        description="Semantic segmentation with DeepLab.",
        docs_url=None,
        redoc_url=None,
    )
    _answer_problems(app)
    _add_pages(app)

    def check_query(request: Request) -> None:
        _check_query(request, _query_names(app, request))

    # /healthz, /readyz and /metrics accept any parameters, because probes may add their own.
    only_known = [Depends(check_query)]

    @app.get("/healthz", summary="Liveness check", response_description="The server is running.")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get(
        "/readyz",
        summary="Readiness check",
        response_description="The server accepts pictures now.",
        responses=_only(503),
    )
    async def ready() -> dict[str, str]:
        if not queue.alive:
            raise Problem(503, "the inference thread has stopped; start the server again.")
        if request_handler.admission.full:
            raise Problem(
                503,
                f"the limit of {counted(request_handler.admission.limits.waiting, 'waiting picture')} is reached.",
                {"Retry-After": "1"},
            )
        return {"status": "ready"}

    @app.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_class=PlainTextResponse,
        response_description="All counters, in the text format of Prometheus.",
        responses=_only(401, 403),
    )
    async def counters() -> Response:
        metrics.waiting.set(request_handler.admission.waiting)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get(
        "/v1/models",
        summary="All models",
        dependencies=only_known,
        response_description="Name, classes, scores, engine and version of each model.",
        responses=_only(401, 403, 422),
    )
    async def models() -> dict[str, Any]:
        return {"models": [_described(model, store) for model in store]}

    @app.get(
        "/v1/models/{name}",
        summary="One model",
        dependencies=only_known,
        response_description="Name, classes, scores, engine and version of the model, and all metadata of its file "
        "except its provenance.",
        responses=_only(401, 403, 404, 422),
    )
    async def model(name: str) -> dict[str, Any]:
        found = _find(store, name)
        record = found.segmenter.info.to_dict()
        # The provenance contains paths on the machine that trained the model.
        return {**_described(found, store), "info": {**record, "provenance": {}}}

    @app.post(
        "/v1/models/{name}/segment",
        summary="Segment a picture or a volume",
        dependencies=only_known,
        response_class=Response,
        responses=SEGMENTED,
        openapi_extra={"requestBody": PICTURE_BODY},
    )
    async def segment(
        request: Request,
        name: str,
        format: Annotated[
            Form | None,
            Query(
                description="format of the mask: mask, a PNG with a palette; indices, a grey PNG of class indices; "
                "overlay, a JPEG of the picture with the mask drawn over it; areas, the number of pixels of each class "
                "as JSON; rle, areas and the run-length encoding of each class as in COCO; polygons, GeoJSON with "
                "coordinates in pixels. For a model of volumes: nifti, a .nii.gz on the grid of the upload; "
                "dicom-seg, only for a DICOM series; view, the data that the page at / shows. "
                "By default, the format that matches the header Accept best"
            ),
        ] = None,
        scales: Annotated[
            str,
            Query(
                pattern=SCALES_PATTERN,
                description=f"scales of test-time augmentation, {SCALES[0]:g} to {SCALES[1]:g}, separated by commas, "
                "such as 0.75,1,1.25; the probabilities of all scales are averaged",
            ),
        ] = "1",
        flip: Annotated[
            bool, Query(description="also segment the mirrored picture, and average the probabilities")
        ] = False,
        range: Annotated[
            str | None,
            Query(
                pattern=RANGE_PATTERN,
                description="lower and upper value of the picture, separated by a comma, which become 0 and the "
                "largest value of the model's data type. Give 0,4095 for 12-bit values that are stored in 16 bits. By "
                "default, the whole range of the picture's data type",
            ),
        ] = None,
        crf: Annotated[
            Crf | None,
            Query(description="settings of the fully connected CRF that refines the mask; by default, no CRF is used"),
        ] = None,
        tile: Annotated[
            int | None, Query(ge=GRID, le=8192, description="side of a tile, in pixels; larger pictures are tiled")
        ] = None,
        overlap: Annotated[
            int | None,
            Query(ge=0, le=2048, description="overlap of neighbouring tiles, in pixels; at most half a tile"),
        ] = None,
        opacity: Annotated[float, Query(ge=0, le=1, description="opacity of the colours of an overlay")] = 0.55,
        legend: Annotated[bool, Query(description="add class names and colours below an overlay")] = False,
    ) -> Response:
        model = _find(store, name)
        settings = RequestSettings(
            model,
            InferenceOptions(_numbers(scales), flip, crf, _range(range), tile, overlap),
            response_formats.ResponseOptions(_form_of(model, format, request), opacity, legend),
            _query_names(app, request),
        )
        return await request_handler.serve(request, settings)

    return app


def _query_names(app: FastAPI, request: Request) -> list[str]:
    """Returns the names of the query parameters that the address of a request accepts."""
    operation = app.openapi()["paths"][request.scope["route"].path][request.method.lower()]
    return [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]


def _check_query(request: Request, allowed: Collection[str]) -> None:
    """Refuses unknown query parameters, and parameters that are given more than once."""
    counts = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in counts.items():
        if name not in allowed and not allowed:
            raise Problem(422, f"{request.url.path} accepts no query parameters, got '{name[:100]}'.")
        if name not in allowed:
            raise Problem(422, str(unknown_name("query parameter", name[:100], allowed)))
        if count > 1:
            raise Problem(422, f"the query parameter {name} is given {count} times: give it once.")


def _range(text: str | None) -> tuple[float, ...] | None:
    return None if text is None else tuple(float(part) for part in text.split(","))


def _find(store: ModelStore, name: str) -> Model:
    try:
        return store[name]
    except AtrousError as error:
        raise Problem(404, str(error)) from error


def _form_of(model: Model, format: str | None, request: Request) -> str:
    """Returns the response format that a request asks for, and checks that the model supports the format."""
    volumes = bool(model.segmenter.info.preprocessing.image.planes)
    accepted = response_formats.VOLUME_ACCEPTED if volumes else response_formats.ACCEPTED
    form = format or response_formats.form_for(request.headers.get("accept", ""), accepted)
    if form is None:
        raise Problem(406, f"Accept allows none of the server's formats: {', '.join(accepted)}.")
    if (form in response_formats.VOLUME_FORMS) != volumes:
        allowed = [one for one in response_formats.FORMATS if (one in response_formats.VOLUME_FORMS) == volumes]
        noun = "volumes" if volumes else "pictures"
        raise Problem(
            422, f"the model {model.name} segments {noun}: format must be {' or '.join(allowed)}, got {form}."
        )
    return form


def _numbers(text: str) -> tuple[float, ...]:
    """Parses the scales in a text that matches `SCALES_PATTERN`, and checks their range."""
    scales = tuple(float(part) for part in text.split(","))
    if not all(SCALES[0] <= scale <= SCALES[1] for scale in scales):
        raise Problem(422, f"scales must be {SCALES[0]:g} to {SCALES[1]:g}, got {text}.")
    return scales


def _described(model: Model, store: ModelStore) -> dict[str, Any]:
    info, engine = model.segmenter.info, model.segmenter.engine
    return {
        "name": model.name,
        "architecture": info.architecture,
        "backbone": info.arguments.get("backbone"),
        "classes": [
            {"index": index, "name": name, "color": list(color)}
            for index, (name, color) in enumerate(zip(info.classes, info.colors, strict=True))
        ],
        "channels": info.preprocessing.channels,
        "planes": list(info.preprocessing.image.planes),
        "inputs": [
            {"name": one.name, "channels": one.channels, "dtype": one.dtype, "unit": one.unit}
            for one in info.preprocessing.inputs
        ],
        "scores": info.scores,
        "crf": info.crf is not None,
        "engine": engine.name,
        "device": engine.device,
        "precision": engine.precision,
        "version": model.stamp,
        "loaded": model.loaded,
        "not_taken": store.failures.get(model.name),
    }


def _only(*statuses: int) -> dict[int | str, Any]:
    return {status: RESPONSES[status] for status in statuses}


def _answer_problems(app: FastAPI) -> None:
    """Gives every error response the media type application/problem+json."""

    def answer(problem: Problem) -> JSONResponse:
        return JSONResponse(
            problem.record(), problem.status, headers=problem.headers, media_type="application/problem+json"
        )

    @app.exception_handler(Problem)
    async def on_problem(request: Request, error: Problem) -> JSONResponse:
        return answer(error)

    @app.exception_handler(HTTPException)
    async def on_router_error(request: Request, error: HTTPException) -> JSONResponse:
        detail = {404: f"there is nothing at {request.url.path}; /docs lists all addresses."}
        detail[405] = f"{request.method} is not allowed at {request.url.path}; /docs lists the methods of each address."
        return answer(
            Problem(error.status_code, detail.get(error.status_code, str(error.detail)), dict(error.headers or {}))
        )

    @app.exception_handler(RequestValidationError)
    async def on_invalid_arguments(request: Request, error: RequestValidationError) -> JSONResponse:
        wrong = [f"{one['loc'][-1]}: {one['msg']}, got {str(one.get('input'))[:100]!r}" for one in error.errors()]
        return answer(Problem(422, "; ".join(wrong) + "."))

    @app.exception_handler(ClientDisconnect)
    async def on_disconnect(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody receives this response; only the metrics count it

    @app.exception_handler(Exception)
    async def on_other_error(request: Request, error: Exception) -> JSONResponse:
        return answer(Problem(500, "the server failed to process this request; its log contains the error."))


def _add_pages(app: FastAPI) -> None:
    """Adds the page for people at / and the API reference at /docs."""
    for address, file in (
        ("/", HERE / "page.html"),
        *((f"/{name}", HERE / name) for name in ("page.css", "page.js", "page_volume.js")),
        *((f"/{name}", VIEWER / name) for name in ("volume_view.css", "volume_view.js")),
    ):
        app.add_api_route(
            address,
            _file(file, MEDIA_TYPES[file.suffix]),
            methods=["GET"],
            include_in_schema=False,
            response_class=FileResponse,
        )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        template = Environment(loader=PackageLoader("atrous", "serving"), autoescape=True).get_template("docs.html.j2")
        return HTMLResponse(template.render(schema=app.openapi()))


def _file(path: Path, kind: str) -> Any:
    async def page() -> FileResponse:
        return FileResponse(path, media_type=kind, headers={"Cache-Control": "no-cache"})

    return page
