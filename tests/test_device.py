import platform
import subprocess
import sys

import pytest
import torch

from atrous.device import has_bfloat16, keep_freed_memory, pick_device, pick_precision, precision_name
from atrous.errors import AtrousError


def test_devices_by_name_and_as_they_are():
    assert pick_device("cpu") == torch.device("cpu")
    gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    assert pick_device("auto").type == (gpu or "cpu")
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


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_kept():
    """In a process of its own, since the setting lasts: a large block is not faulted in again after it was freed."""
    code = """
import ctypes, resource
from atrous.device import keep_freed_memory
if {keep}: keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(2**27)
    libc.memset(block, 1, 2**27)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    counts = []
    for keep in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", code.format(keep=keep)], capture_output=True, text=True, check=True
        )
        counts.append(int(done.stdout))
    assert counts[1] < counts[0] / 10


def test_keeping_memory_does_no_harm_twice():
    keep_freed_memory()
    keep_freed_memory()
    assert torch.ones(10).sum() == 10
