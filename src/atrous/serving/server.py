"""Runs a server: loads the models, listens, and after a signal stops when the last response is sent."""

from __future__ import annotations

import logging
import signal
import socket
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import uvicorn

from atrous.errors import AtrousError
from atrous.inference.model_spec import ModelSpec
from atrous.serving.app import make_app
from atrous.serving.auth import LOCAL, AccessControl
from atrous.serving.inference_queue import InferenceQueue
from atrous.serving.model_store import ModelStore
from atrous.serving.prometheus_metrics import Metrics
from atrous.serving.request_handler import RequestHandler
from atrous.serving.request_limits import Limits

#: Largest number of open connections; further connections get the status 503.
MOST_CONNECTIONS = 1024
#: Files that the server itself opens: models, devices, pipes of threads, and connections that are being refused.
OWN_FILES = 128
#: Largest size of a request's headers, in bytes.
MOST_HEADER_BYTES = 32 * 2**10


def run(
    specs: Mapping[str, ModelSpec],
    *,
    host: str,
    port: int,
    key: str | None,
    limits: Limits,
    say: Callable[[str], object],
) -> None:
    """Serves models until SIGTERM or Ctrl-C, and then answers the requests that have already arrived.

    Args:
        specs: files and engine options of the models, by name.
        host: host name or IP address to listen at.
        port: port to listen at, 0–65535; 0 for any free port.
        key: key of the server, see `AccessControl`; None for no key.
        limits: limits on requests.
        say: receives log lines; the line with "http://" contains the address.

    Raises:
        AtrousError: a file is not a model, or the server cannot listen at the address.
    """
    if key is None and host not in LOCAL:
        raise AtrousError(
            f"at {host} everybody who reaches this machine could send requests: give a key, by --key-file FILE or in "
            "the environment as ATROUS_KEY; or omit --host, to serve only this machine."
        )
    listening = _listen(host, port)
    metrics = Metrics()
    queue = InferenceQueue(metrics.ran)
    try:
        store = ModelStore(specs, queue, say, lambda name, well: metrics.reloads.labels(name, str(well).lower()).inc())
    except BaseException:
        queue.close()
        listening.close()
        raise
    request_handler = RequestHandler(store, queue, limits, metrics)
    guarded = AccessControl(make_app(store, queue, request_handler, metrics), key, metrics)
    connections = most_connections()
    config = uvicorn.Config(
        guarded,
        http=_protocol(say),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=connections,
        backlog=connections,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(limits.sending_seconds + limits.seconds) + 5,
    )
    server = uvicorn.Server(config)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # uvicorn warns of every invalid request
    warnings.filterwarnings("ignore", module=r"PIL\.")  # Pillow warns of every damaged picture
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    for model in store:
        engine = model.segmenter.engine
        say(f"{model.name}: {model.spec.path} on {engine.name}, {engine.device}, {engine.precision}")
    listening.listen(connections)
    # Uvicorn handles signals only while it runs. When it ends, it raises again the signal that stopped it. These
    # handlers receive that signal, and signals that arrive before uvicorn runs.
    before = {kind: signal.signal(kind, server.handle_exit) for kind in (signal.SIGINT, signal.SIGTERM)}
    say(f"listening at {address} - Ctrl-C ends")
    try:
        server.run(sockets=[listening])
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
        request_handler.close()
        store.close()
        queue.close()
    # requests that were cancelled before or during the response
    cut = max(request_handler.cut, len(server.server_state.connections))
    say(f"stopped: {f'{cut} requests were cut off' if cut else 'all requests were answered'}")


def most_connections() -> int:
    """Returns the number of connections to accept: `MOST_CONNECTIONS`, or fewer if the limit of open files is low.

    The soft limit of the process is raised first, at most to its hard limit. (The soft limit is often 1024, and the
    hard limit much higher.)
    """
    try:
        import resource
    except ImportError:  # Windows, where sockets are not files
        return MOST_CONNECTIONS
    wanted = MOST_CONNECTIONS + OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MOST_CONNECTIONS, soft - OWN_FILES))


def _protocol(say: Callable[[str], object]) -> Any:
    """Returns `TimedH11`, which closes slow connections; "h11", uvicorn's own protocol, if `TimedH11` does not fit."""
    try:
        from atrous.serving.slow_request_timeouts import TimedH11, fits

        if fits():
            return TimedH11
    except ImportError:
        pass
    say(
        f"uvicorn {uvicorn.__version__} is not supported: slow connections are not closed. Install uvicorn "
        "0.54, or put a proxy with timeouts before it."
    )
    return "h11"


def _listen(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound to the address.

    Raises:
        AtrousError: this machine does not have the address, or another program uses it.
    """
    if not 0 <= port <= 65_535:
        raise AtrousError(f"port must be 0 to 65535, got {port}.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = found[0]
        listening = socket.socket(family, kind)
        # On Windows SO_REUSEADDR would allow two programs to share a port.
        option = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
        listening.setsockopt(socket.SOL_SOCKET, option, 1)
        listening.bind(address)
        return listening
    except OSError as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AtrousError(f"cannot listen at {host}, port {port}: {reason}. Another --port may be free.") from error
