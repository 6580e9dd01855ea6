import subprocess
import sys

import pytest
import torch

from atrous.device import has_bfloat16, keep_freed_memory, pick_device, pick_precision, precision_name
from atrous.errors import AtrousError


def test_devices_by_name_and_as_they_are():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    given = torch.device("mps:0")  # what a module's parameters say on a Mac
    assert pick_device(given) is given


def test_an_absent_device_is_named_with_those_there_are():
    with pytest.raises(AtrousError, match=r"unknown device on this machine 'cdua'.*cpu"):
        pick_device("cdua")


def test_precision_auto_is_bfloat16_only_where_the_processor_has_it():
    cpu = torch.device("cpu")
    assert pick_precision("auto", cpu) == (torch.bfloat16 if has_bfloat16(cpu) else torch.float32)
    assert pick_precision("float32", cpu) == torch.float32
    with pytest.raises(AtrousError, match=r"unknown precision 'float23'. Did you mean 'float32'"):
        pick_precision("float23", cpu)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_names_and_precisions_are_inverse(name):
    assert precision_name(pick_precision(name, torch.device("cpu"))) == name


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted through Linux's getrusage")
def test_freed_memory_is_kept_for_the_next_step():
    """In a process of its own, since the setting lasts: the same large block is not faulted in each time."""
    code = """
import resource, torch
from atrous.device import keep_freed_memory
if {keep}: keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(sum(faults() for _ in range(8)))
"""
    counts = []
    for keep in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", code.format(keep=keep)], capture_output=True, text=True, check=True
        )
        counts.append(int(done.stdout))
    assert counts[1] < counts[0] / 2


def test_keeping_memory_does_no_harm_twice():
    keep_freed_memory()
    keep_freed_memory()
    assert torch.ones(10).sum() == 10
