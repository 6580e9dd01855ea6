"""Reads PyTorch's own files without running any code in them.

A pickle names the classes and functions that it needs. torch's restricted reader allows a fixed list of names and
refuses all others. But some allowed names can fill the memory, such as bytearray of a large number, or Counter of a
tensor that repeats one number. So this module checks all names in the pickles first, and allows only those in `SAFE`.

Training checkpoints also contain harmless objects, such as a NumPy score or the history of a log. Their names are
listed in `HARMLESS`. An inert class of this module replaces each of these objects; it accepts any arguments and does
nothing. So no foreign code is imported or called for harmless objects, either.
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

#: Names of objects that training checkpoints contain besides weights; each is read as an empty object.
HARMLESS = (
    "argparse.Namespace",
    "builtins.getattr",  # HistoryBuffer stores its statistics as bound methods, pickled as a getattr
    *(f"builtins.{kind}" for kind in ("dict", "float", "int", "list")),  # the default factory of a defaultdict
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

#: Names of subclasses of dict; they are read as plain dicts.
DICTS = ("collections.defaultdict", "mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict")

#: Names that tensors and plain Python values need. PyTorch's reader also allows bytearray, collections.Counter and
#: further kinds of tensors, with which a short file can fill the memory.
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

#: Largest number of operations in a pickle: this number, or the size of the file in bytes if that is larger. Each
#: operation may create an object, and compression can pack many operations into few bytes.
MOST_OPCODES = 2**20

#: Container → operations with which the container's arguments may begin: no argument, or a list that is written out.
#: Any other argument could be a huge tensor that repeats one number, and the container would unpack this tensor.
CONTAINERS = {
    "collections.OrderedDict": ("EMPTY_TUPLE", "EMPTY_LIST"),
    "builtins.set": ("EMPTY_LIST",),
}

#: Operations that write a shape: a tuple of integers. torch.Size would unpack any other argument, such as a tensor.
SHAPE = frozenset(
    {"MARK", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "BININT", "BININT1", "BININT2", "LONG1"}
)

#: Number of pickles in a file of the format before zip: magic number, version, machine, object, and storage keys.
LEGACY_PICKLES = 5


def read_torch(path: Path) -> Any:
    """Reads a file of torch.save that contains only tensors and plain Python values.

    Args:
        path: file in torch's zip format or in the format before it.

    Returns:
        The saved object, usually a dict, with tensors on the CPU.

    Raises:
        AtrousError: the file names code that is not allowed, or contains sparse or quantised tensors (the message gives
            the name); or it is a tar file. For a damaged file, the exceptions of torch are not caught.
    """
    for name in _names(path, max(path.stat().st_size, MOST_OPCODES)):
        if name not in SAFE:
            raise AtrousError(_refusal(path, name[:100].removeprefix("builtins.")))
    stand_ins: list[Any] = [*((_Nothing, name) for name in HARMLESS), *((_Dict, name) for name in DICTS)]
    with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
        # warnings that torch deprecates a feature are hidden, because the user cannot change the file's format
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _refusal(path: Path, name: str) -> str:
    if name.startswith("torch._utils._rebuild_"):
        return (
            f"{path} has a tensor of a kind that cannot be read, such as a sparse or quantised tensor ({name!r}); "
            "save it dense, as floating-point numbers. Nothing was run."
        )
    return (
        f"{path} holds more than weights: it names {name!r}, which is code. Nothing was run. If you trust the file, "
        "save only the weights with the code that made it: torch.save(model.state_dict(), file)."
    )


def _names(path: Path, most: int) -> Iterator[str]:
    """Yields every name of code in the pickles of a file, as `module.attribute`."""
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.lower().endswith(".pkl"):  # torch ignores the case of this suffix
                    yield from _names_in(archive.read(entry), most)
        return
    if _is_tar(path):
        raise AtrousError(f"{path} is a tar file: unpack it and give the file in it, or save it with a newer PyTorch.")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(LEGACY_PICKLES):
            yield from _names_in(content, most)


def _names_in(pickled: Any, most: int) -> Iterator[str]:
    """Yields the names of code in one pickle; an open file is then at the end of that pickle."""
    memo: dict[Any, str] = {}
    last = ""  # the name on top of the stack
    in_shape = False  # between torch.Size and its call
    objects = Stack()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if number == most:
            raise ValueError(f"its pickle has more operations than are allowed: {most}")
        objects.step(opcode.name, argument)
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = last
            continue
        in_shape = (in_shape or last == "torch.Size") and opcode.name != "REDUCE"
        if opcode.name not in CONTAINERS.get(last, (opcode.name,)) or (in_shape and opcode.name not in SHAPE):
            raise ValueError(f"it has {'torch.Size' if in_shape else last} in another form than torch.save writes")
        last = memo.get(argument, "") if opcode.name in ("BINGET", "LONG_BINGET") else ""
        if opcode.name == "GLOBAL":  # torch's reader refuses INST and STACK_GLOBAL, which also name code
            module, _, name = str(argument).partition(" ")
            # torch.save writes Python 2's names; translated as in torch's reader.
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            last = f"{module}.{name}"
            objects.name(last)
            yield last


def _is_zip(path: Path) -> bool:
    """Returns whether torch would read the file as a zip file."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_tar(path: Path) -> bool:
    """Returns whether a file has PyTorch's first format, a tar file of pickles; torch tries it before plain pickles."""
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False


class _Nothing:
    """Replacement for a harmless object: accepts any arguments and stores nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Dict:
    """Replacement for a subclass of dict: an OrderedDict, because the reader can fill it and set its state."""

    def __new__(cls, *args: Any) -> Any:
        return OrderedDict()
