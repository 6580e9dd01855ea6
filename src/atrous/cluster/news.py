"""News of the processes of a cluster for the command that started them, and its request to stop for them."""

from __future__ import annotations

import io
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

from atrous.console import console, error_console, note
from atrous.errors import AtrousError
from atrous.json_yaml import parse_json
from atrous.learning.stop_signals import request_stop, stop_on_signal

#: Seconds between two exchanges of a process with the command.
EXCHANGE_EVERY = 1.0
#: Seconds until the first text of a process after which a note is printed.
SILENCE = 60.0
#: Bytes at the end of metrics.jsonl in which the last training line is looked for.
TAIL = 8192


class News(NamedTuple):
    """What the processes report to the command.

    Attributes:
        text: text that was printed since the last news.
        line: last training line of metrics.jsonl; None before the first one.
        error: message of the AtrousError that ended a process; "" if there is none.
        stopped: whether a process stopped because the command asked for it.
    """

    text: str = ""
    line: dict[str, Any] | None = None
    error: str = ""
    stopped: bool = False


class Messages:
    """An actor of the cluster that passes news to the command, and the command's request to stop to the processes."""

    def __init__(self) -> None:
        self._news, self._stop = News(), False

    def report(self, text: str, line: dict[str, Any] | None) -> bool:
        """Keeps what a process printed and the last training line; returns whether the process should stop."""
        self._news = self._news._replace(text=self._news.text + text, line=line or self._news.line)
        return self._stop

    def fail(self, error: str) -> None:
        """Keeps the message of an error; of several processes, the first one counts."""
        self._news = self._news._replace(error=self._news.error or error)

    def end_stopped(self) -> None:
        """Keeps that a process stopped because of the request."""
        self._news = self._news._replace(stopped=True)

    def take(self) -> News:
        """Returns the news; each text is returned once."""
        news, self._news = self._news, self._news._replace(text="")
        return news

    def stop(self) -> None:
        """Asks the processes to stop after their current step."""
        self._stop = True


def start_messages(ray: Any) -> Any:
    """Starts the actor `Messages` on the node of this process, so that the loss of another node does not end it.

    Args:
        ray: the module ray, connected to the cluster.

    Returns:
        The handle of the actor.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Messages).options(num_cpus=0, scheduling_strategy=here).remote()


def follow(
    ray: Any,
    messages: Any,
    ended: Callable[[float], bool],
    show: Callable[[dict[str, Any]], object] = lambda line: None,
) -> News:
    """Prints the news of processes until they have ended; after Ctrl-C or SIGTERM, asks them to stop.

    Args:
        ray: the module ray.
        messages: handle of the actor.
        ended: function that waits a number of seconds at most, and returns whether the processes have ended.
        show: called with the last training line after each exchange.

    Returns:
        The last news.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed again, or no process has started that could stop.
    """
    over, news, heard, started = False, News(), False, time.monotonic()
    with stop_on_signal() as stopped:
        while not over:
            over = ended(EXCHANGE_EVERY)
            if stopped():
                ray.get(messages.stop.remote())
                if not heard:  # no process has started that could stop
                    raise KeyboardInterrupt
            news = ray.get(messages.take.remote())
            heard = heard or bool(news.text)
            if not heard and time.monotonic() - started > SILENCE:
                note("no process has started yet: all cores or GPUs of the cluster may be in use, see `ray status`")
                started = math.inf
            if news.text:
                console.print(news.text, end="", markup=False)
            if news.line is not None:
                show(news.line)
    return news


def in_folder(ray: Any, folder: Path) -> None:
    """Makes the command's working directory that of this process, because its paths may be relative.

    Args:
        ray: the module ray.
        folder: working directory of the command.

    Raises:
        AtrousError: this node has no such folder.
    """
    if not folder.is_dir():
        raise AtrousError(
            f"the node {ray.util.get_node_ip_address()} has no folder {folder}: start the command in a folder that all "
            "nodes have, for example on a shared disk."
        )
    os.chdir(folder)


@contextmanager
def reporting(ray: Any, messages: Any, run: Path | None = None) -> Iterator[None]:
    """Sends what this process prints to the command during the context, and follows the command's request to stop.

    Args:
        ray: the module ray.
        messages: handle of the actor.
        run: folder of a run, whose last training line is sent, too; None for none.
    """
    printed, ended = _Printed(), threading.Event()

    def exchange() -> None:
        if ray.get(messages.report.remote(printed.take(), run and last_training_line(run))):
            request_stop()

    def repeat() -> None:
        while not ended.wait(EXCHANGE_EVERY):
            with suppress(Exception):  # without the actor, the training goes on
                exchange()

    before = console.file, error_console.file, warnings.showwarning
    console.file = error_console.file = cast(Any, printed)
    warnings.showwarning = printed.show_warning
    thread = threading.Thread(target=repeat, daemon=True, name="news")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        console.file, error_console.file, warnings.showwarning = before
        with suppress(Exception):  # an error here would hide the one that ended the work
            exchange()


class _Printed(io.StringIO):
    """Text that this process prints; another thread takes it."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        """Adds text."""
        with self._lock:
            return super().write(text)

    def show_warning(self, message: Warning | str, category: type[Warning], *more: Any) -> None:
        """Adds a warning of atrous as the command line prints it; warnings of libraries are left out."""
        if category.__module__.startswith("atrous."):
            self.write(f"note: {message}\n")

    def take(self) -> str:
        """Returns the text since the last call."""
        with self._lock:
            text = self.getvalue()
            self.seek(0)
            self.truncate()
        return text


def last_training_line(run: Path) -> dict[str, Any] | None:
    """Returns the last training line of a run's metrics.jsonl; None if there is none near the file's end.

    Args:
        run: folder of the run.
    """
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(-min(TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    for text in reversed(lines):
        with suppress(ValueError):  # an incomplete line
            line = parse_json(text, "metrics.jsonl", finite=False)
            if isinstance(line, dict) and line.get("kind") == "train":
                return line
    return None
