"""Who may ask: what every request passes before the application sees it."""

from __future__ import annotations

import hmac
import json
from typing import Any
from urllib.parse import SplitResult, urlsplit

from atrous.serving.limits import Problem
from atrous.serving.prometheus_metrics import Metrics

#: Names of this machine, under which a page elsewhere cannot be loaded.
LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
#: Addresses that need no key: the page itself, its parts and what tells that a server lives.
OPEN = frozenset({"/", "/page.css", "/page.js", "/docs", "/openapi.json", "/healthz", "/readyz"})
#: Of every answer: nothing from elsewhere is loaded, guessed or framed.
HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class AccessControl:
    """An ASGI application before another.

    Without a key only this machine is served, and only pages of this server may ask: a page of elsewhere that a browser
    here shows, even under a name that was turned to this machine (DNS rebinding), is refused. With a key, it is asked
    for as `Authorization: Bearer KEY`.

    Args:
        app: that sees what may pass.
        key: or None.
        metrics: count every answer.
    """

    def __init__(self, app: Any, key: str | None, metrics: Metrics) -> None:
        self._app, self._key, self._metrics = app, key, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] == "websocket":  # there are none, and one would pass by the key
            return await send({"type": "websocket.close", "code": 1008, "reason": "this server has no websockets"})
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        head = scope["method"] == "HEAD"
        if head:  # as GET, without the body (RFC 9110 §9.3.2)
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
                    f"this server is for its own machine, and was asked as '{host}'. Ask as 127.0.0.1 or localhost, or "
                    "start it with a key to serve others.",
                )
            origin = headers.get("origin")
            if origin is not None and _parts_of(origin).netloc != headers.get("host"):
                raise Problem(403, f"pages of {origin} may not ask this server.")
        elif scope["path"] not in OPEN:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), self._key.encode()):
                raise Problem(
                    401, "this server asks for a key: Authorization: Bearer KEY.", {"WWW-Authenticate": "Bearer"}
                )


def _parts_of(address: str) -> SplitResult:
    """An address's parts; all of them empty where it is none."""
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
