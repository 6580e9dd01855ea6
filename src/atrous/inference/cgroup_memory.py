"""How much memory the control groups of this process leave it: those of a container, of a service, of a batch job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Where Linux mounts control groups, and where it says which of them a process is in.
ROOT, PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Version:
    """The files of one version of control groups.

    Args:
        mounts: folders below the root where its groups may lie.
        limits: files with the bytes that a group may take; in version 2 "max" for any number. Above `memory.high` the
            kernel slows a group down, above the others it ends processes.
        used: file with the bytes that it has taken, the page cache included.
        reclaimable: entries of `memory.stat` that the kernel frees before it refuses memory: pages of files, recently
            used or not, and caches of names. These are what it counts as available in /proc/meminfo, too.
    """

    mounts: tuple[str, ...]
    limits: tuple[str, ...]
    used: str
    reclaimable: tuple[str, ...]


V1 = Version(
    ("memory",),
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
V2 = Version(
    ("", "unified"),
    ("memory.max", "memory.high"),
    "memory.current",
    ("inactive_file", "active_file", "slab_reclaimable"),
)


def group_bytes(root: Path = ROOT, process: Path = PROCESS) -> float:
    """The memory that the process may still take: what the tightest of its groups and their parents leaves.

    Args:
        root: where control groups are mounted.
        process: the file that says which groups the process is in, lines of NUMBER:CONTROLLERS:PATH.

    Returns:
        Bytes, at least 0; infinity where no group has a limit, as outside Linux.
    """
    return min((_left(group, version) for version, group in _groups(root, process)), default=float("inf"))


def _groups(root: Path, process: Path) -> Iterator[tuple[Version, Path]]:
    """All groups that this process is in. In a container its own group is the root, whatever its path outside is."""
    try:
        lines = process.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    paths = {V1: "", V2: ""}
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            paths[V2] = path
        elif "memory" in controllers.split(","):
            paths[V1] = path
    for version, path in paths.items():
        for mount in version.mounts:
            group = root / mount
            yield version, group
            for name in path.split("/"):
                if name == "..":  # above what is mounted here
                    break
                if name:
                    group /= name
                    yield version, group


def _left(group: Path, version: Version) -> float:
    """What one group leaves; infinity where it has no limit, or is not to be seen here."""
    limits = [number for name in version.limits if (number := _number(group / name)) is not None]
    used = _number(group / version.used)
    if not limits or used is None:
        return float("inf")
    return max(min(limits) - max(used - _reclaimable(group / "memory.stat", version.reclaimable), 0.0), 0.0)


def _number(file: Path) -> float | None:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return float(text) if text.isdigit() else None


def _reclaimable(file: Path, names: Sequence[str]) -> float:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    entries = dict(line.split() for line in lines if len(line.split()) == 2)
    return float(sum(int(entries[name]) for name in names if entries.get(name, "").isdigit()))
