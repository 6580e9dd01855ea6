"""Finds the memory that control groups (of a container, a service or a batch job) leave for this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Mount point of the control groups on Linux, and the file that lists the groups of this process.
ROOT, PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Version:
    """The files of one version of control groups.

    Args:
        mounts: folders below the mount point that may contain the groups of this version; "" is the mount point.
        limits: names of the files with the number of bytes that a group may use; in version 2, "max" means no limit.
            If a group exceeds `memory.high`, the kernel slows down the processes of the group. If it exceeds another
            limit, the kernel ends processes of the group.
        used: name of the file with the number of bytes that a group uses, including the page cache.
        reclaimable: keys of `memory.stat` for memory that the kernel frees before it refuses an allocation: cached
            pages of files, and kernel caches such as those of file names. MemAvailable in /proc/meminfo includes
            memory of the same kinds.
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
    """Returns the memory that the process may still use: the minimum over its groups and their parents.

    Args:
        root: mount point of the control groups.
        process: file that lists the groups of the process, in lines of NUMBER:CONTROLLERS:PATH.

    Returns:
        Bytes, at least 0; infinity if no group has a limit, and on systems other than Linux.
    """
    return min((_left(group, version) for version, group in _groups(root, process)), default=float("inf"))


def _groups(root: Path, process: Path) -> Iterator[tuple[Version, Path]]:
    """Yields (version, folder) of each group of the process and of its parent groups.

    The mount point is included, because in a container it is the group of the process.
    """
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
                if name == "..":  # a group above the mount point
                    break
                if name:
                    group /= name
                    yield version, group


def _left(group: Path, version: Version) -> float:
    """Returns the bytes that one group leaves; infinity if it has no limit or its files cannot be read."""
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
