"""PyTorch's own files, read without running anything in them.

A pickle is read by torch's restricted reader, which makes tensors, dicts, lists and strings and refuses every name of
code. Some of the names that it knows fill the memory all the same (bytearray of a number, a Counter of a tensor that
repeats one number), so the names in the pickles are looked through before: only those in `SAFE` are let in. Training
checkpoints also carry harmless records (a NumPy score, a log's history): for those names alone, listed in `HARMLESS`,
an inert class of this file stands in, which takes anything and does nothing, so that no foreign code is imported or
called even then.
"""

from __future__ import annotations

import mmap
import pickletools
import tarfile
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from atrous.errors import AtrousError
from atrous.weights.pickle_memory_check import Stack

#: Names of records that training checkpoints carry beside their weights, here read as nothing at all.
HARMLESS = (
    "argparse.Namespace",
    "builtins.getattr",  # HistoryBuffer keeps its statistics as bound methods, pickled as a getattr
    *(f"builtins.{kind}" for kind in ("dict", "float", "int", "list")),  # what a defaultdict makes
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.numeric._frombuffer",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{kind}" for kind in ("bool_", "int32", "int64", "float32", "float64")),
    *(f"numpy.dtypes.{kind}DType" for kind in ("Bool", "Int32", "Int64", "Float32", "Float64", "Str")),
    *(
        f"{module}.{kind}Path"
        for module in ("pathlib", "pathlib._local")
        for kind in ("", "Posix", "PurePosix", "Windows")
    ),
    "torch.torch_version.TorchVersion",
)

#: Names of dicts that are more than that, here read as dicts.
DICTS = ("collections.defaultdict", "mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict")

#: What tensors and plain Python are made of. PyTorch's reader knows more: bytearray, collections.Counter and further
#: kinds of tensors, which a short file can make fill the memory.
SAFE = frozenset(
    {
        "_codecs.encode",
        "builtins.complex",
        "builtins.set",
        "collections.OrderedDict",
        *(
            f"torch._utils._rebuild_{kind}"
            for kind in ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state")
        ),
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.Size",
        "torch.Tensor",
        *(f"torch.storage.{kind}Storage" for kind in ("Typed", "Untyped")),
        *(f"torch.{name}" for name in dir(torch) if name.endswith("Storage")),
        *(f"torch.{name}" for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)),
        *HARMLESS,
        *DICTS,
    }
)

#: Operations of a file's pickles, where it has fewer bytes than that: each may make an object, and deflate packs them.
MOST_OPCODES = 2**20

#: Containers that would take a tensor's numbers apart, of which there may be any number that repeat one → with what
#: their arguments begin instead: none, or a list written out.
CONTAINERS = {
    "collections.OrderedDict": ("EMPTY_TUPLE", "EMPTY_LIST"),
    "builtins.set": ("EMPTY_LIST",),
}

#: What a shape is written with: whole numbers in a tuple. It would take the numbers of anything else apart, too.
SHAPE = frozenset(
    {"MARK", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BININT", "BININT1", "BININT2", "LONG1"}
)

#: Pickles in a file of the format before zip: magic number, version, machine, object, keys of the storages.
LEGACY_PICKLES = 5


def read_torch(path: Path) -> Any:
    """What torch.save wrote, of tensors and plain Python alone.

    Args:
        path: of torch's zip format or of the one before it.

    Returns:
        The object, mostly a dict, its tensors on the CPU.

    Raises:
        AtrousError: there is code in it; says whose. Whatever a damaged file makes torch raise is let through.
    """
    for name in _names(path, max(path.stat().st_size, MOST_OPCODES)):
        if name not in SAFE:
            raise AtrousError(_refusal(path, name[:100].removeprefix("builtins.")))
    stand_ins: list[Any] = [*((_Nothing, name) for name in HARMLESS), *((_Dict, name) for name in DICTS)]
    with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
        warnings.simplefilter("ignore")  # what torch deprecates is nothing that the user can change
        return torch.load(path, map_location="cpu", weights_only=True)


def _refusal(path: Path, name: str) -> str:
    if name.startswith("torch._utils._rebuild_"):
        return (
            f"{path} holds a tensor of a kind that is not read, by {name!r}, such as a sparse or quantised one; save "
            "it dense, as floating-point numbers. Nothing was run."
        )
    return (
        f"{path} holds more than weights: it names {name!r}, which is code. Nothing was run. If you trust it, save the "
        "weights alone where it was made: torch.save(model.state_dict(), file)."
    )


def _names(path: Path, most: int) -> Iterator[str]:
    """Every name of code in its pickles, of modules and attributes, as torch's reader joins them."""
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.lower().endswith(".pkl"):  # torch finds its record in any case of letters
                    yield from _names_in(archive.read(entry), most)
        return
    if _is_tar(path):
        raise AtrousError(f"{path} is a tar file: unpack it and give the file in it, or save it with a newer PyTorch.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(LEGACY_PICKLES):
            yield from _names_in(content, most)


def _names_in(pickled: Any, most: int) -> Iterator[str]:
    """The names in one pickle, bytes or an open file, which is then at its end."""
    memo: dict[Any, str] = {}
    last = ""  # the name that lies on top of the stack
    in_shape = False  # between torch.Size and its call
    objects = Stack()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if number == most:
            raise ValueError("its pickle has more operations than the file has bytes")
        objects.step(opcode.name, argument)
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = last
            continue
        in_shape = (in_shape or last == "torch.Size") and opcode.name != "REDUCE"
        if opcode.name not in CONTAINERS.get(last, (opcode.name,)) or (in_shape and opcode.name not in SHAPE):
            raise ValueError(f"{'torch.Size' if in_shape else last} of something else than it is written with")
        last = memo.get(argument, "") if opcode.name in ("BINGET", "LONG_BINGET") else ""
        if opcode.name == "GLOBAL":  # INST and STACK_GLOBAL, the other ways to name code, torch's reader refuses
            module, _, name = str(argument).partition(" ")
            # Names of Python 2, in which torch.save writes, as torch's reader translates them.
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            last = f"{module}.{name}"
            objects.name(last)
            yield last


def _is_zip(path: Path) -> bool:
    """As torch decides it."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_tar(path: Path) -> bool:
    """PyTorch's first format, whose pickles lie inside; torch tries it before the pickles at the beginning."""
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False


class _Nothing:
    """Stands in for a harmless record: takes anything, keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Dict:
    """Stands in for a special dict: an ordered one, the kind that the reader fills and gives a state."""

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()
