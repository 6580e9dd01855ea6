"""Chooses the set of weights that is converted from a checkpoint, and lists the other contents of the checkpoint.

All keys of a network may begin with the same name (for example that of an attribute in Lightning, of a teacher or of an
average). Words of wrappers, such as `module` or `_orig_mod`, may be anywhere in the keys. The file may also contain
losses, counters and other networks. One rule holds for all sources: a set is complete if a source recognises it after
removal of some prefix. If the file has several complete sets, the first set whose name does not mean an average or a
teacher is converted. If all names mean averages or teachers, the first set is converted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from atrous.errors import AtrousError, unknown_name
from atrous.models.wrapper_prefixes import without_wrappers
from atrous.weights import detect_source
from atrous.weights.adapter import COUNT, LAYER_LEAVES, some
from atrous.weights.read_checkpoint import Foreign, single

#: Sources whose files contain only a backbone. Every network also contains a backbone, so these sources are considered
#: only if the file has no complete network.
BACKBONES = frozenset({"timm-backbone", "vgg16"})

#: Largest number of names in a prefix; networks with longer prefixes are not found.
DEPTH = 4

#: Names of copies of the trained weights, and of teacher networks.
COPIES = re.compile(
    r"EMA|SWA|(?<![A-Za-z])(ema|swa|avg|mean|old|prev|best|init)(?![A-Za-z])|[Aa]verag|shadow|polyak|teacher|target|"
    r"momentum|slow|frozen",
)

#: Suffix of TensorFlow's name for the average of a variable.
AVERAGE = "ExponentialMovingAverage"

#: Counters that are not reported as left over.
SILENT = (COUNT, "n_averaged")


@dataclass(frozen=True)
class Chosen:
    """The set that is converted.

    Args:
        foreign: content of the file with only the chosen set, by the source's own names.
        keys: source's name → key in the file.
        beside: keys of all other tensors in the file. For another complete set, one entry `NAME.*` stands for all its
            keys.
        notes: notes for the user on the other sets.
    """

    foreign: Foreign
    keys: Mapping[str, str]
    beside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Network:
    """A set of weights that sources recognise.

    Attributes:
        path: path of the dict in the file.
        word: words of wrappers that were removed from the keys.
        prefix: prefix that was removed from the keys.
        state: tensors by the remaining keys.
        keys: remaining key → key in the file.
        recognised_by: names of the sources.
    """

    path: str
    word: str
    prefix: str
    state: dict[str, Tensor]
    keys: dict[str, str]
    recognised_by: frozenset[str]

    @property
    def names(self) -> tuple[str, ...]:
        """The possible names of the set, the shortest first."""
        parts = [part for part in (self.path, self.word, self.prefix.rstrip("./")) if part]
        return tuple(dict.fromkeys((*reversed(parts), ".".join(parts)))) if parts else ()


def choose(foreign: Foreign, source: str | None = None, weights: str | None = None) -> Chosen:
    """Finds the network in a file.

    Args:
        foreign: content of the file.
        source: name of the source; None if the user did not name it.
        weights: name of the set; None if the user did not name it.

    Returns:
        The set, or the unchanged file if no source recognises any set.

    Raises:
        AtrousError: the file has no set of that name; the message lists the sets.
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
            f"The file holds {len(found)} sets of weights: {some(titles)}. Taken: {titles[taken]}. Averages "
            "and teachers are taken only if there is no other set. To take another set: --weights NAME."
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
    """Lists every complete set, in the order of the file."""
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
    """Maps keys without wrappers' words to keys in the file; returns several sets if keys differ only in these words.

    TensorFlow's averages are a separate set. For variables without an average, this set contains the variables
    themselves.
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
    """Yields the shortest prefixes; if one of them is removed from the keys, a source recognises the set."""
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
    """Returns whether all convolutions in the same dict of the file belong to the networks that were found."""
    known = {key for other in found if other.path == network.path for key in other.keys.values()}
    held = foreign.sets.get(network.path, {})
    return not any(tensor.ndim > 2 for key, tensor in held.items() if key not in known)


def _titles(found: list[_Network]) -> list[str]:
    """Returns the shortest unique name of each set."""
    every = [name for network in found for name in network.names]
    return [
        next((name for name in network.names if every.count(name) == 1), network.names[-1] if network.names else "main")
        for network in found
    ]


def _taken(found: list[_Network], titles: list[str], weights: str | None) -> int:
    """Returns the index of the set that is converted."""
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
    """Separates the weights from single numbers that profilers and quantisers store; also returns the numbers' keys."""
    kept, counters = {}, []
    for key, tensor in state.items():
        if tensor.numel() > 1 or re.split(r"[./]", key)[-1] in (*LAYER_LEAVES, COUNT):
            kept[key] = tensor
        elif not key.endswith(SILENT):
            counters.append(key)
    return kept, counters


def _beside(foreign: Foreign, found: list[_Network], titles: list[str], taken: int) -> tuple[str, ...]:
    """Returns the names of other complete sets (`NAME.*`) and the keys of tensors outside the networks."""
    beside = [f"{title}.*" for index, title in enumerate(titles) if index != taken]
    for path, held in foreign.sets.items():
        known = {key for network in found if network.path == path for key in network.keys.values()}
        for key in held:
            if key not in known and not key.endswith(SILENT):
                beside.append(key if path == found[taken].path or not path else f"{path}.{key}")
    return tuple(beside)
