"""Access control: checks the host, origin and key of every request before the application gets it."""

from __future__ import annotations

import hmac
import json
from typing import Any
from urllib.parse import SplitResult, urlsplit

from atrous.serving.prometheus_metrics import Metrics
from atrous.serving.request_limits import Problem

#: Host names of this machine. A browser cannot load a page of another machine under one of these names.
LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
#: Paths that need no key: the page and its files, the API reference and the health checks.
OPEN = frozenset(
    {
        *("/", "/page.css", "/page.js", "/page_volume.js", "/volume_view.css", "/volume_view.js"),
        *("/docs", "/openapi.json", "/healthz", "/readyz"),
    }
)
#: Headers of every response. They forbid content from other servers, display of the page in frames of other pages,
#: guessing of media types, and the header Referer.
HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class AccessControl:
    """ASGI middleware that passes on only allowed requests.

    Without a key, the header `Host` of a request must name this machine, and the header `Origin`, if present, must name
    this server. So requests from pages of other sites are refused, even if the host name of such a site points to this
    machine (DNS rebinding). With a key, every request must have the header `Authorization: Bearer KEY`, except requests
    for the paths in `OPEN`.

    Args:
        app: ASGI application that gets the allowed requests.
        key: key of the server; None for no key.
        metrics: counters of the server; every response is counted.
    """

    def __init__(self, app: Any, key: str | None, metrics: Metrics) -> None:
        self._app, self._key, self._metrics = app, key, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] == "websocket":  # websockets are not supported; the check of the key covers only HTTP requests
            return await send({"type": "websocket.close", "code": 1008, "reason": "this server has no websockets"})
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        head = scope["method"] == "HEAD"
        if head:  # HEAD is processed as GET, but the response has no body (RFC 9110 §9.3.2)
            scope = {**scope, "method": "GET"}

        async def send_counted(message: Any) -> None:
            if head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                self._metrics.requests.labels(route, str(message["status"])).inc()
                message = {**message, "headers": [*message["headers"], *HEADERS]}
            await send(message)

        try:
            self._check(scope)
        except Problem as problem:
            return await _refuse(problem, send_counted)
        return await self._app(scope, receive, send_counted)

    def _check(self, scope: Any) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self._key is None:
            host = _parts_of(f"//{headers.get('host', '')}").hostname
            if host not in LOCAL:
                raise Problem(
                    403,
                    f"this server serves only its own machine, but the request names the host '{host}'. Use 127.0.0.1 "
                    "or localhost, or start the server with a key to serve other machines.",
                )
            origin = headers.get("origin")
            if origin is not None and _parts_of(origin).netloc != headers.get("host"):
                raise Problem(403, f"pages of {origin} may not use this server.")
        elif scope["path"] not in OPEN:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._key.encode()):
                raise Problem(
                    401, "this server needs a key: Authorization: Bearer KEY.", {"WWW-Authenticate": "Bearer"}
                )


def _parts_of(address: str) -> SplitResult:
    """Returns the parts of an address; all parts are empty if the address is invalid."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


async def _refuse(problem: Problem, send: Any) -> None:
    headers = {"content-type": "application/problem+json", **problem.headers}
    content = json.dumps(problem.record()).encode()
    start = {
        "type": "http.response.start",
        "status": problem.status,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        + [(b"content-length", str(len(content)).encode())],
    }
    await send(start)
    await send({"type": "http.response.body", "body": content})
