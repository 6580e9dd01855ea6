"""What control groups leave, on folders as Linux makes them."""

from pathlib import Path

import pytest

from atrous.inference.cgroup_memory import group_bytes
from atrous.inference.memory_estimate import with_unused_blocks

MB = 2**20
UNLIMITED_V1 = 9223372036854771712


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def process_in(root: Path, *lines: str) -> Path:
    file = root.parent / "self"
    file.write_text("\n".join(lines) + "\n")
    return file


def v2(group: Path, limit: object, used: int, high: object = "max", **stat: int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.high").write_text(f"{high}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))


def v1(group: Path, limit: int, used: int, **stat: int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (group / "memory.usage_in_bytes").write_text(f"{used}\n")
    (group / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))


def test_the_page_cache_does_not_count_as_taken(root):
    stat = {"anon": 100 * MB, "inactive_file": 600 * MB, "active_file": 200 * MB, "slab_reclaimable": 50 * MB}
    v2(root, 1000 * MB, 960 * MB, **stat, shmem=10 * MB)
    assert group_bytes(root, process_in(root, "0::/")) == 890 * MB


def test_the_page_cache_of_version_1_does_not_count_as_taken(root):
    stat = {"inactive_file": 1, "total_inactive_file": 600 * MB, "total_active_file": 200 * MB}
    v1(root / "memory", 1000 * MB, 950 * MB, **stat)
    assert group_bytes(root, process_in(root, "4:memory:/docker/0a1b", "1:name=systemd:/docker/0a1b")) == 850 * MB


def test_the_tightest_of_all_groups_above_counts(root):
    v2(root / "batch", 2000 * MB, 500 * MB)
    v2(root / "batch/job", 900 * MB, 800 * MB, inactive_file=100 * MB)
    v2(root / "batch/job/step", "max", 10 * MB)
    v2(root / "other", 1 * MB, 1 * MB)
    assert group_bytes(root, process_in(root, "0::/batch/job/step")) == 200 * MB
    assert group_bytes(root, process_in(root, "0::/batch")) == 1500 * MB


def test_nested_groups_of_version_1(root):
    v1(root / "memory", UNLIMITED_V1, 5 * MB)
    v1(root / "memory/slurm", 3000 * MB, 500 * MB)
    v1(root / "memory/slurm/job:7", 400 * MB, 100 * MB)
    process = process_in(root, "9:cpu,cpuacct:/elsewhere", "7:hugetlb,memory:/slurm/job:7", "0::/")
    assert group_bytes(root, process) == 300 * MB


def test_where_both_versions_are_mounted_both_count(root):
    v1(root / "memory", 900 * MB, 100 * MB)
    v2(root / "unified/app", 700 * MB, 100 * MB)
    assert group_bytes(root, process_in(root, "3:memory:/", "0::/app")) == 600 * MB


def test_the_kernel_slows_down_above_high(root):
    v2(root / "app", 1000 * MB, 100 * MB, high=600 * MB)
    assert group_bytes(root, process_in(root, "0::/app")) == 500 * MB


@pytest.mark.parametrize("path", ["/not/mounted/here", "/../..", "/../sibling"])
def test_in_a_container_the_root_is_its_own_group(root, path):
    v2(root, 800 * MB, 300 * MB)
    v2(root.parent / "sibling", 1 * MB, 1 * MB)
    assert group_bytes(root, process_in(root, f"0::{path}")) == 500 * MB
    assert group_bytes(root, root.parent / "no such file") == 500 * MB


def test_no_limit_and_no_groups_are_infinite(root):
    v2(root / "app", "max", 300 * MB)
    assert group_bytes(root, process_in(root, "0::/app")) == float("inf")
    assert group_bytes(root / "nowhere", root.parent / "nothing") == float("inf")


def test_damaged_files_and_more_taken_than_allowed_do_no_harm(root):
    v2(root, 100 * MB, 300 * MB)
    assert group_bytes(root, process_in(root, "0::/", "what", "")) == 0
    (root / "memory.stat").write_text("inactive_file\nactive_file many\nslab_reclaimable 1 2\n")
    assert group_bytes(root, process_in(root, "0::/")) == 0
    v2(root, 100 * MB, 30 * MB, inactive_file=500 * MB)  # read at different moments
    assert group_bytes(root, process_in(root, "0::/")) == 100 * MB
    (root / "memory.current").unlink()
    assert group_bytes(root, process_in(root, "0::/")) == float("inf")


def test_blocks_that_torch_keeps_for_tensors_to_come_count_as_free():
    assert with_unused_blocks(2 * MB, 10 * MB, 7 * MB) == 5 * MB
    assert with_unused_blocks(2 * MB, 0, 0) == 2 * MB
    assert with_unused_blocks(2 * MB, 5 * MB, 6 * MB) == 2 * MB  # read at different moments
