"""PyTorch's own files, read without running anything in them.

A pickle is read by torch's restricted reader, which makes tensors, dicts, lists and strings and refuses every name of
code. Training checkpoints also carry harmless records (a NumPy score, a log's history): for those names alone, listed
in `HARMLESS`, an inert class of this file stands in, which takes anything and does nothing, so that no foreign code is
imported or called even then.
"""

from __future__ import annotations

import mmap
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from atrous.errors import AtrousError

#: Names of records that training checkpoints carry beside their weights, here read as nothing at all.
HARMLESS = (
    "argparse.Namespace",
    "builtins.getattr",  # HistoryBuffer keeps its statistics as bound methods, pickled as a getattr
    *(f"builtins.{kind}" for kind in ("dict", "float", "int", "list")),  # what a defaultdict makes
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
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

#: The one name that torch's restricted reader calls with any number, and so fills the memory; no checkpoint has it.
GREEDY = (b"builtins\nbytearray\n", b"__builtin__\nbytearray\n")


def read_torch(path: Path) -> Any:
    """What torch.save wrote, of tensors and plain Python alone.

    Args:
        path: of torch's zip format or of the one before it.

    Returns:
        The object, mostly a dict, its tensors on the CPU.

    Raises:
        AtrousError: there is code in it; says whose. Whatever a damaged file makes torch raise is let through.
    """
    if _is_greedy(path):
        raise AtrousError(f"{path} holds more than weights: it names 'bytearray', to fill the memory. Nothing was run.")
    stand_ins: list[Any] = [*((_Nothing, name) for name in HARMLESS), (_Dict, "collections.defaultdict")]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")  # what torch deprecates is nothing that the user can change
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # _pickle.UnpicklingError, RuntimeError, EOFError, KeyError, UnicodeDecodeError …
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise AtrousError(
                f"{path} holds more than weights: it names '{code[1]}', which is code. Nothing was run. If you trust "
                "it, save the weights alone where it was made: torch.save(model.state_dict(), file)."
            ) from error
        raise


def _is_greedy(path: Path) -> bool:
    """Whether its pickles, or where pickles and weights alternate the whole file, have a name of `GREEDY`."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return any(content.find(word) >= 0 for word in GREEDY)
    with zipfile.ZipFile(path) as archive:
        pickles = [archive.read(entry) for entry in archive.infolist() if entry.filename.endswith(".pkl")]
    return any(word in pickled for pickled in pickles for word in GREEDY)


class _Nothing:
    """Stands in for a harmless record: takes anything, keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Dict:
    """Stands in for a defaultdict: a dict, which the reader then fills."""

    def __new__(cls, *args: Any) -> Any:
        return {}
