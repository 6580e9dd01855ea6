"""The models that are served: loaded once, replaced as a whole when their file changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from atrous.errors import AtrousError, unknown_name
from atrous.inference.model_spec import ModelSpec
from atrous.inference.segmenter import Segmenter
from atrous.serving.inference_queue import InferenceQueue, Job

#: Seconds between two looks at the models' files.
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Look:
    """How a model is to look at a picture.

    Args:
        scales: see `Segmenter`.
        flip: see `Segmenter`.
        crf: settings in words, or None.
        range: see `Segmenter`.
        tile: see `Segmenter`.
        overlap: see `Segmenter`.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    crf: str | None = None
    range: tuple[float, ...] | None = None
    tile: int | None = None
    overlap: int | None = None


@dataclass(eq=False)
class Model:
    """One version of a model.

    Args:
        name: under which it is served.
        spec: how it is opened.
        stamp: what tells this version of the file from others.
        segmenter: that runs it.

    Attributes:
        loaded: when, in UTC.
    """

    name: str
    spec: ModelSpec
    stamp: str
    segmenter: Segmenter
    loaded: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def looking(self, look: Look) -> Segmenter:
        """What looks at a picture so; plain looks are one object, which is what lets pictures be stacked.

        Raises:
            AtrousError: see `Segmenter.looking`.
        """
        if look == Look():
            return self.segmenter
        return self.segmenter.looking(**asdict(look))


class ModelStore:
    """All models that are served, by name.

    Args:
        specs: how the models are opened, by name.
        network: that runs them.
        say: told when a model was replaced, or could not be.
        reloaded: told the name, and whether it went well.

    Raises:
        AtrousError: a file that is no model.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        network: InferenceQueue,
        say: Callable[[str], object] = lambda line: None,
        reloaded: Callable[[str, bool], object] = lambda name, well: None,
    ) -> None:
        self._network, self._say, self._reloaded = network, say, reloaded
        self._models = {name: self._load(name, spec) for name, spec in specs.items()}
        self.failures: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._end = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._watcher.start()

    def __iter__(self) -> Any:
        return iter(self._models.values())

    def __getitem__(self, name: str) -> Model:
        """The present version of a model.

        Raises:
            AtrousError: no model of this name, with the nearest match.
        """
        if name not in self._models:
            raise unknown_name("model", name, self._models)
        return self._models[name]

    def close(self) -> None:
        """Stops looking at the files."""
        self._end.set()
        self._watcher.join()

    def _load(self, name: str, spec: ModelSpec) -> Model:
        stamp = stamp_of(spec.path)
        model = Model(name, spec, stamp, spec.open(self._say))
        # The first picture takes longest; it shall not be a person's, nor run beside the network's own thread.
        channels = model.segmenter.info.preprocessing.channels
        picture = model.segmenter.preparation.prepare(
            np.zeros((64, 64, channels), model.segmenter.info.preprocessing.dtype)
        )
        self._network.submit(Job(model.segmenter, picture)).result()
        return model

    def _watch(self) -> None:
        before: dict[str, str] = {}
        while not self._end.wait(POLL_SECONDS):
            for name, model in list(self._models.items()):
                stamp = stamp_of(model.spec.path)
                settled = before.get(name) == stamp  # a file that is still being copied has another the next time
                before[name] = stamp
                if stamp == model.stamp:  # the file that is served is back
                    self.failures.pop(name, None)
                    self._refused.pop(name, None)
                if stamp in ("", model.stamp, self._refused.get(name)) or not settled:
                    continue
                self._replace(name, model.spec, stamp)

    def _replace(self, name: str, spec: ModelSpec, stamp: str) -> None:
        """Takes the new version, or keeps the present one and says why."""
        try:
            self._models[name] = self._load(name, spec)
        except Exception as error:  # the present version goes on, whatever is wrong with the new one
            reason = str(error) if isinstance(error, AtrousError) else f"{type(error).__name__}: {error}"
            self.failures[name], self._refused[name] = reason, stamp
            self._say(f"{name}: the changed file is not taken, the version before goes on: {reason}")
            self._reloaded(name, False)
            return
        self.failures.pop(name, None)
        self._say(f"{name}: replaced by the new version of {spec.path}")
        self._reloaded(name, True)


def stamp_of(path: Path) -> str:
    """What tells one version of a file, and of the weights beside it, from another; "" where there is none."""
    try:
        stats = [one.stat() for one in (path, path.with_suffix(".bin")) if one == path or one.exists()]
    except OSError:
        return ""
    return "-".join(f"{stat.st_mtime_ns:x}.{stat.st_size:x}.{stat.st_ino:x}" for stat in stats)


def named_paths(words: Sequence[str]) -> dict[str, Path]:
    """Models' files by the names they are served under: NAME=PATH, or a path, whose name without suffix it is.

    Raises:
        AtrousError: two of one name, or a name that does not fit an address.
    """
    named: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        name, path = (name, path) if equals else (Path(word).stem, word)
        if not name or not all(letter.isascii() and (letter.isalnum() or letter in "-_.") for letter in name):
            raise AtrousError(
                f"'{name}' cannot be part of an address: give letters, digits, - and _, as in NAME={path}."
            )
        if name in named:
            raise AtrousError(f"two models are called '{name}': give one another name, as in {name}2={path}.")
        named[name] = Path(path)
    return named
