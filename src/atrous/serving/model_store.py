"""The models that are served. Each model is loaded once, and replaced as a whole when its file changes."""

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

#: Time between two checks of the models' files, in seconds.
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class InferenceOptions:
    """Options of inference for one request.

    Args:
        scales: scales of test-time augmentation.
        flip: whether the mirrored picture is segmented, too.
        crf: "model" or the name of a preset; None for no CRF.
        range: (lower, upper) values of the picture, as in `Segmenter`; None for the range of the segmenter.
        tile: side of a tile, in pixels; None for the tile size of the segmenter.
        overlap: overlap of neighbouring tiles, in pixels; None for the overlap of the segmenter.
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
        name: name under which the model is served.
        spec: file and engine options of the model.
        stamp: identifier of this version of the file.
        segmenter: segmenter that runs the model.

    Attributes:
        loaded: time at which the model was loaded: UTC, in the format ISO 8601.
    """

    name: str
    spec: ModelSpec
    stamp: str
    segmenter: Segmenter
    loaded: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def segmenter_for(self, options: InferenceOptions) -> Segmenter:
        """Returns the segmenter with these options.

        With default options, this is always the same object, so that several pictures can run as one batch.

        Raises:
            AtrousError: `Segmenter.looking` refuses the options.
        """
        if options == InferenceOptions():
            return self.segmenter
        return self.segmenter.looking(**asdict(options))


class ModelStore:
    """All models that are served, by name.

    Args:
        specs: files and engine options of the models, by name.
        queue: inference queue that runs the models.
        say: receives a log line when a model is replaced, or its new file cannot be loaded.
        reloaded: called after each reload with the name of the model, and True if the reload succeeded.

    Attributes:
        failures: reasons why changed files could not be loaded, by name of the model.

    Raises:
        AtrousError: a file is not a model.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        queue: InferenceQueue,
        say: Callable[[str], object] = lambda line: None,
        reloaded: Callable[[str, bool], object] = lambda name, well: None,
    ) -> None:
        self._queue, self._say, self._reloaded = queue, say, reloaded
        self._models = {name: self._load(name, spec) for name, spec in specs.items()}
        self.failures: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._end = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._watcher.start()

    def __iter__(self) -> Any:
        return iter(self._models.values())

    def __getitem__(self, name: str) -> Model:
        """Returns the current version of a model.

        Raises:
            AtrousError: there is no model of this name; the message gives the nearest match.
        """
        if name not in self._models:
            raise unknown_name("model", name, self._models)
        return self._models[name]

    def close(self) -> None:
        """Stops checking the files for changes."""
        self._end.set()
        self._watcher.join()

    def _load(self, name: str, spec: ModelSpec) -> Model:
        stamp = stamp_of(spec.path)
        model = Model(name, spec, stamp, spec.open(self._say))
        # The first picture takes longest, so a blank picture is segmented now, on the inference thread.
        channels = model.segmenter.info.preprocessing.channels
        picture = model.segmenter.preparation.prepare(
            np.zeros((64, 64, channels), model.segmenter.info.preprocessing.dtype), whole=False
        )
        self._queue.submit(Job(model.segmenter, picture)).result()
        return model

    def _watch(self) -> None:
        before: dict[str, str] = {}
        while not self._end.wait(POLL_SECONDS):
            for name, model in list(self._models.items()):
                stamp = stamp_of(model.spec.path)
                settled = before.get(name) == stamp  # the stamp of a file that is still being copied changes
                before[name] = stamp
                if stamp == model.stamp:  # the file is again the version in use
                    self.failures.pop(name, None)
                    self._refused.pop(name, None)
                if stamp in ("", model.stamp, self._refused.get(name)) or not settled:
                    continue
                self._replace(name, model.spec, stamp)

    def _replace(self, name: str, spec: ModelSpec, stamp: str) -> None:
        """Loads the new version of a model; if this fails, keeps the current version and reports the reason."""
        try:
            self._models[name] = self._load(name, spec)
        except Exception as error:  # the current version stays in use after any error
            reason = str(error) if isinstance(error, AtrousError) else f"{type(error).__name__}: {error}"
            self.failures[name], self._refused[name] = reason, stamp
            self._say(f"{name}: the changed file cannot be used, the previous version stays in use: {reason}")
            self._reloaded(name, False)
            return
        self.failures.pop(name, None)
        self._say(f"{name}: replaced by the new version of {spec.path}")
        self._reloaded(name, True)


def stamp_of(path: Path) -> str:
    """Returns an identifier of the current version of a model file and its .bin file; "" if there is no model file."""
    try:
        stats = [one.stat() for one in (path, path.with_suffix(".bin")) if one == path or one.exists()]
    except OSError:
        return ""
    return "-".join(f"{stat.st_mtime_ns:x}.{stat.st_size:x}.{stat.st_ino:x}" for stat in stats)


def named_paths(words: Sequence[str]) -> dict[str, Path]:
    """Returns the model files by name.

    Args:
        words: texts of the form NAME=PATH or PATH. Without NAME, the name is the file name without its suffix.

    Raises:
        AtrousError: two models have the same name, or a name cannot be part of an address.
    """
    named: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        name, path = (name, path) if equals else (Path(word).stem, word)
        if not name or not all(letter.isascii() and (letter.isalnum() or letter in "-_.") for letter in name):
            raise AtrousError(
                f"'{name}' cannot be part of an address: a name may contain letters, digits, '.', '-' and '_', as in "
                f"NAME={path}."
            )
        if name in named:
            raise AtrousError(f"two models are called '{name}': give one of them another name, as in {name}2={path}.")
        named[name] = Path(path)
    return named
