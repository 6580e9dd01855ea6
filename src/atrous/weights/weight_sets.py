"""Which of a checkpoint's sets of weights is converted, where in it the network lies, and what is beside.

A network may lie under any name (Lightning's attribute, a teacher's, an average's), with wrappers' words anywhere in
its keys, and with losses, counters and other networks beside it. One rule for all sources: a set is whole if a source
recognises it under some beginning of its keys. Of several the first is taken that is not named as an average or as a
teacher.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from atrous.errors import AtrousError, unknown_name
from atrous.models.wrapper_names import without_wrappers
from atrous.weights import detect_source
from atrous.weights.adapter import COUNT, LAYER_LEAVES, some
from atrous.weights.read_checkpoint import Foreign, single

#: Sources whose files hold a backbone alone, which every network has in it: they count where no whole network is.
BACKBONES = frozenset({"timm-backbone", "vgg16"})

#: How deep in its keys a network is looked for, in names before its own.
DEPTH = 4

#: Names of copies of the trained weights, and of networks that teach the one that was trained.
COPIES = re.compile(
    r"EMA|SWA|(?<![A-Za-z])(ema|swa|avg|mean|old|prev|best|init)(?![A-Za-z])|[Aa]verag|shadow|polyak|teacher|target|"
    r"momentum|slow|frozen",
)

#: What TensorFlow adds to the name of a variable for its average.
AVERAGE = "ExponentialMovingAverage"

#: Counts that say nothing of the weights.
SILENT = (COUNT, "n_averaged")


@dataclass(frozen=True)
class Chosen:
    """The set that is converted.

    Args:
        foreign: the file with that set alone, under the source's own names.
        keys: those names → as they are in the file.
        beside: what else the file holds, as it is named there; another whole set as `NAME.*`.
        notes: what to tell the user: which other sets there are.
    """

    foreign: Foreign
    keys: Mapping[str, str]
    beside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Network:
    """A set of weights that sources recognise: its place, tensors, keys in the file, and whose it may be."""

    path: str
    word: str
    prefix: str
    state: dict[str, Tensor]
    keys: dict[str, str]
    recognised_by: frozenset[str]

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be called, the shortest first."""
        parts = [part for part in (self.path, self.word, self.prefix.rstrip("./")) if part]
        return tuple(dict.fromkeys((*reversed(parts), ".".join(parts)))) if parts else ()


def choose(foreign: Foreign, source: str | None = None, weights: str | None = None) -> Chosen:
    """Finds the network in a file.

    Args:
        foreign: the file.
        source: whose weights they are, if the user said so.
        weights: the set's name, if the user said so.

    Returns:
        The set, or the file as it stands where no source recognises any.

    Raises:
        AtrousError: no set of that name; says which there are.
    """
    found = _networks(foreign)
    whole = [network for network in found if network.recognised_by - BACKBONES]
    found = whole or [network for network in found if _stands_alone(network, found, foreign)]
    found = [network for network in found if source is None or source in network.recognised_by]
    if not found:
        if weights is not None:
            raise AtrousError(
                f"{foreign.name or 'the state dict'} holds no set of weights that a source recognises: leave out "
                "weights (--weights)."
            )
        return Chosen(foreign, {})
    titles = _titles(found)
    taken = _taken(found, titles, weights)
    notes = []
    if len(found) > 1 and weights is None:
        notes.append(
            f"The file holds {len(found)} sets of weights: {some(titles)}. Taken: {titles[taken]}, the first that is "
            "not named as an average or a teacher; --weights NAME takes another."
        )
    elif len(found) > 1:
        others = [title for index, title in enumerate(titles) if index != taken]
        notes.append(f"The file holds other sets of weights, too: {some(others)}.")
    network = found[taken]
    state, counters = _without_counters(network.state)
    return Chosen(
        replace(foreign, state={key: single(tensor) for key, tensor in state.items()}),
        network.keys,
        tuple(network.keys[key] for key in counters) + _beside(foreign, found, titles, taken),
        tuple(notes),
    )


def _networks(foreign: Foreign) -> list[_Network]:
    """Every whole set, in the order of the file."""
    found = []
    for path, held in foreign.sets.items():
        for word, keys in _by_wrappers(held).items():
            state = {key: held[theirs] for key, theirs in keys.items()}
            for prefix in _prefixes(state):
                under = [key for key in state if key.startswith(prefix)]
                inside = {key.removeprefix(prefix): state[key] for key in under}
                found.append(
                    _Network(
                        path=path,
                        word=word,
                        prefix=prefix,
                        state=inside,
                        keys={key.removeprefix(prefix): keys[key] for key in under},
                        recognised_by=frozenset(detect_source.recognising(Foreign(inside))),
                    )
                )
    return found


def _by_wrappers(held: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """Keys without wrappers' words → keys as they are; several sets where the words alone tell weights apart.

    TensorFlow's averages are a set, in which variables that are not averaged are as they are.
    """
    averages = {without_wrappers(key.removesuffix(f"/{AVERAGE}")): key for key in held if key.endswith(f"/{AVERAGE}")}
    if averages:
        rest = _by_wrappers({key: tensor for key, tensor in held.items() if not key.endswith(f"/{AVERAGE}")})
        return rest | {AVERAGE: {**rest.get("", {}), **averages}}
    plain = {without_wrappers(key): key for key in held}
    if len(plain) == len(held):
        return {"": plain}
    apart: dict[str, dict[str, str]] = {}
    for key in held:
        bare = without_wrappers(key)
        words = [part for part in re.split(r"[./]", key) if part not in re.split(r"[./]", bare)]
        apart.setdefault(".".join(words), {})[bare] = key
    return apart


def _prefixes(state: Mapping[str, Tensor], prefix: str = "", depth: int = DEPTH) -> Iterator[str]:
    """The shortest beginnings of keys under which some source recognises the rest."""
    inside = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    if detect_source.recognising(Foreign(inside)):
        yield prefix
        return
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        first = re.match(r"[^./]+[./]", key.removeprefix(prefix))
        if first:
            parts.setdefault(first[0], {})[key] = tensor
    for part, below in parts.items():
        if depth:
            yield from _prefixes(below, prefix + part, depth - 1)


def _stands_alone(network: _Network, found: list[_Network], foreign: Foreign) -> bool:
    """Whether a backbone is all there is: no convolution beside it but those of other backbones."""
    known = {key for other in found if other.path == network.path for key in other.keys.values()}
    held = foreign.sets.get(network.path, {})
    return not any(tensor.ndim > 2 for key, tensor in held.items() if key not in known)


def _titles(found: list[_Network]) -> list[str]:
    """The shortest name of each that no other has."""
    every = [name for network in found for name in network.names]
    return [
        next((name for name in network.names if every.count(name) == 1), network.names[-1] if network.names else "main")
        for network in found
    ]


def _taken(found: list[_Network], titles: list[str], weights: str | None) -> int:
    """Which of them."""
    if weights is None:
        plain = (index for index, title in enumerate(titles) if not COPIES.search(title))
        return next(plain, 0)
    named = weights.strip("./")
    for index, title in enumerate(titles):
        if title == named:
            return index
    alike = [index for index, network in enumerate(found) if named in network.names]
    if len(alike) == 1:
        return alike[0]
    raise unknown_name("set of weights", weights, titles)


def _without_counters(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights, and the keys of single numbers that profilers, quantisers and others keep in a network's parts."""
    kept, counters = {}, []
    for key, tensor in state.items():
        if tensor.numel() > 1 or re.split(r"[./]", key)[-1] in (*LAYER_LEAVES, COUNT):
            kept[key] = tensor
        elif not key.endswith(SILENT):
            counters.append(key)
    return kept, counters


def _beside(foreign: Foreign, found: list[_Network], titles: list[str], taken: int) -> tuple[str, ...]:
    """Names of what is not converted: each other whole set in one, and each tensor beside the networks."""
    beside = [f"{title}.*" for index, title in enumerate(titles) if index != taken]
    for path, held in foreign.sets.items():
        known = {key for network in found if network.path == path for key in network.keys.values()}
        for key in held:
            if key not in known and not key.endswith(SILENT):
                beside.append(key if path == found[taken].path or not path else f"{path}.{key}")
    return tuple(beside)
