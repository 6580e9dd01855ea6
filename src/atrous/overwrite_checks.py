"""Checks of output paths: no output replaces an input, or a file that this program did not write.

Every verb that writes files calls `check_outputs` before its work. A mark inside a file identifies files of this
program: the Software field of a PNG or TIFF, a key of a JSON file, the metadata of a safetensors file, the generator of
an HTML page.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atrous.atomic_write import atomic_path, is_stream, write_text
from atrous.errors import AtrousError
from atrous.json_yaml import parse_json, read_json
from atrous.software_tag import UNSEALED, is_sealed, seal

if TYPE_CHECKING:
    from PIL import Image

#: The text of every mark, and the key of the record in the metadata of an adapter; that of a model file is `MARK`.
MARK, ADAPTER_MARK = "atrous", "atrous_adapter"
#: The key of the mark in a JSON file. It is the first key, so a truncated file is recognised, too.
JSON_KEY = "written_by"
#: The first line of a classes.yaml.
TABLE_MARK = f"# Class table, written by {MARK}."
#: The beginning of a recipe with every field, such as a run's config.yaml.
RECIPE_MARK = f"# A recipe of {MARK}"
#: Keys of a file of `evaluate --json`. They identify files that earlier versions wrote without a mark.
EVALUATION_KEYS = {"model", "data", "split", "confusion", "per_image"}
#: The mark of an HTML page; pages of earlier versions have no generator and are identified by their title.
PAGE_MARK = re.compile(r'<meta name="generator" content="atrous\b|<title>[^<]* · atrous (report|explain)</title>')
#: Number of bytes at the beginning of a text file that contain its mark.
HEAD_BYTES = 4096
#: File name suffixes of pictures and volumes.
PICTURES_AND_VOLUMES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif"}
PICTURES_AND_VOLUMES |= {".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"}
#: File name suffixes of texts and models.
TEXTS_AND_MODELS = frozenset(
    [".html", ".json", ".yaml", ".yml", ".xml", ".safetensors", ".pt", ".pth", ".pt2", ".onnx"]
)
#: File name suffixes that are refused as the name of an output folder.
FILE_SUFFIXES = PICTURES_AND_VOLUMES | TEXTS_AND_MODELS | {".tflite", ".zip", ".gz"}
#: Longest accepted header of a model file (safetensors' own limit is 100 MB).
MAX_HEADER_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Output:
    """A file that a verb is going to write.

    Args:
        flag: the argument that gives the path, such as "json".
        path: the file.
        kind: the kind of file that may be replaced, for messages, such as "picture".
        is_ours: function that returns whether an existing file is an earlier output of that kind.
        folder: if the output is one of several files in an output folder, the folder that the argument gives.
    """

    flag: str
    path: Path
    kind: str
    is_ours: Callable[[Path], bool]
    folder: Path | None = None


def check_outputs(
    verb: str,
    outputs: Iterable[Output | None],
    inputs: Iterable[tuple[str, str | Path | None]],
    *,
    overwrite: bool = False,
) -> None:
    """Refuses, before the work starts, outputs that would destroy files; nothing is written or created.

    Args:
        verb: the command, for messages.
        outputs: all files that the call will write; None is ignored.
        inputs: all inputs of the call, as pairs (description, file or folder); a path of None is ignored. In a folder,
            all files that this program did not write are inputs.
        overwrite: whether files that this program did not write may be replaced; inputs are never replaced.

    Raises:
        AtrousError: an output is an input, a folder, another output, or a file that this program did not write; or
            its folder cannot be created.
    """
    given = _Inputs(inputs)
    taken: dict[object, Output] = {}
    foreign: list[Output] = []
    for output in outputs:
        if output is None or is_stream(output.path):
            continue
        if output.folder is not None and output.path.is_dir():
            continue  # writing this file will fail later; the other files of the folder are still written
        _check_place(output)
        given.refuse_file(output)
        for key in _identities(output.path):
            other = taken.setdefault(key, output)
            if other is not output:
                raise AtrousError(
                    f"{other.flag} and {output.flag} are both {output.path}; give one of them another name."
                )
        if output.path.exists() and not output.is_ours(output.path):
            given.refuse_inside(output)
            foreign.append(output)
    if foreign and not overwrite:
        raise _refusal(verb, foreign)


class _Inputs:
    """The inputs of a call, identified by real path and by device and inode number."""

    def __init__(self, inputs: Iterable[tuple[str, str | Path | None]]) -> None:
        given = [(words, Path(path)) for words, path in inputs if path is not None]
        self._folders = [(words, Path(os.path.realpath(path))) for words, path in given if path.is_dir()]
        files = [(words, path) for words, path in given if not path.is_dir()]
        self._files = {key: words for words, path in files for key in _identities(path)}

    def refuse_file(self, output: Output) -> None:
        """Refuses an output that is one of the input files, also through a link."""
        for key in _identities(output.path):
            if key in self._files:
                raise AtrousError(
                    f"{output.flag} is {output.path}, {self._files[key]}; give another name. An input is never "
                    "overwritten."
                )

    def refuse_inside(self, output: Output) -> None:
        """Refuses an output in one of the input folders."""
        real = Path(os.path.realpath(output.path))
        for words, folder in self._folders:
            if real.is_relative_to(folder):
                raise AtrousError(
                    f"{output.flag} is {output.path}, a file of {words} in {folder}; give another name. An input is "
                    "never overwritten."
                )


def _identities(path: Path) -> Iterator[object]:
    """Yields the real path and, for an existing file, its device and inode number, which hard links share."""
    yield os.path.realpath(path)
    try:
        status = path.stat()
    except OSError:
        return
    yield status.st_dev, status.st_ino


def _check_place(output: Output) -> None:
    if output.path.is_dir():
        raise AtrousError(
            f"{output.path} exists and is a folder, not {_with_article(output.kind)} of atrous. "
            f"Choose another --{output.flag}."
        )
    above = Path(os.path.realpath(output.path)).parent  # the folder in which the temporary file would be written
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise AtrousError(
            f"cannot make the folder {output.path.parent}: {above} is not a folder. Choose another --{output.flag}."
        )
    if output.path.exists() and not os.access(output.path, os.W_OK):
        raise AtrousError(f"{output.flag} is {output.path}, which is write-protected; give another name.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise AtrousError(f"{output.flag} is {output.path}, but {above} is write-protected; give another name.")


def check_is_folder(flag: str, path: str | Path) -> None:
    """Refuses, before the work starts, a file name for an output folder; an existing folder is accepted.

    Args:
        flag: the argument that gives the path, such as "out".
        path: the folder for the files of the call; it need not exist.

    Raises:
        AtrousError: the path has the suffix of a picture, a volume, a page, a model or a text file.
    """
    path = Path(path)
    folder = path
    while folder.suffix.lower() in FILE_SUFFIXES:  # .nii.gz is two suffixes
        folder = folder.with_suffix("")
    if folder != path and not path.is_dir():
        raise AtrousError(
            f"{flag} is {path}, which is named like a file; give a folder, such as {folder}, for the output files."
        )


@contextmanager
def no_empty_folder(folder: Path) -> Iterator[None]:
    """Removes a folder and its new parents at the end of the context, as far as they are empty.

    Args:
        folder: the output folder; a folder that existed before is kept.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # a folder that is not empty, and its parents, are kept
            for one in made:
                one.rmdir()


def _refusal(verb: str, foreign: Sequence[Output]) -> AtrousError:
    first = foreign[0]
    if first.folder is None:
        return AtrousError(
            f"{first.path} exists and is not {_with_article(first.kind)} of atrous; give another name for "
            f"{first.flag}, or --overwrite to replace it."
        )
    names = [str(each.path.relative_to(first.folder)) for each in foreign if each.folder == first.folder]
    return files_of_others(verb, first.flag, first.folder, names)


def _with_article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def files_of_others(verb: str, flag: str, folder: Path | str, names: Sequence[str]) -> AtrousError:
    """Returns an error for files in an output folder that this program did not write.

    Args:
        verb: the command.
        flag: the argument that gives the folder.
        folder: the folder, as shown in the message.
        names: names of the files, one or more.
    """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return AtrousError(
        f"{folder} holds files that {verb} did not write and would overwrite: {', '.join(names[:3])}{more}. "
        f"Nothing was written. Give another --{flag}, or --overwrite to replace them."
    )


def check_replaceable(path: str | Path, kind: str, is_ours: Callable[[Path], bool], *, overwrite: bool = False) -> None:
    """Refuses to replace a file that this program did not write, for functions called from Python.

    Args:
        path: the file to write.
        kind: the kind of file that may be replaced, for messages.
        is_ours: function that returns whether an existing file is an earlier output of that kind.
        overwrite: whether any file may be replaced.

    Raises:
        AtrousError: the path is a folder, or a file that this program did not write.
    """
    path = Path(path)
    if path.is_dir():
        raise AtrousError(f"{path} is a folder; give the name of a file.")
    if path.exists() and not overwrite and not is_stream(path) and not is_ours(path):
        raise AtrousError(
            f"{path} exists and is not {_with_article(kind)} of atrous, so it is not replaced; give another name, or "
            "overwrite=True."
        )


def json_output(flag: str, path: str | Path | None) -> Output | None:
    """Returns the `Output` of a JSON file that `save_json` will write; None for a path of None."""
    return None if path is None else Output(flag, Path(path), "JSON file", is_our_json)


def model_output(flag: str, path: str | Path | None) -> Output | None:
    """Returns the `Output` of a model file; None for a path of None."""
    return None if path is None else Output(flag, Path(path), "model file", is_our_model)


def table_output(flag: str, path: str | Path | None) -> Output | None:
    """Returns the `Output` of a classes.yaml; None for a path of None."""
    return None if path is None else Output(flag, Path(path), "class table", is_our_table)


def page_output(flag: str, path: str | Path) -> Output:
    """Returns the `Output` of an HTML page."""
    return Output(flag, Path(path), "page", is_our_page)


def picture_output(flag: str, path: str | Path | None, folder: Path | None = None) -> Output | None:
    """Returns the `Output` of a picture that `save_picture` will write; None for a path of None."""
    return None if path is None else Output(flag, Path(path), "picture", is_our_picture, folder)


def model_inputs(model: str | Path) -> list[tuple[str, Path]]:
    """Returns the files of a model as inputs for `check_outputs`; for an .xml also the .bin beside it."""
    path = Path(model)
    files = [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]
    return [("the model itself", file) for file in files]


def is_our_json(path: Path) -> bool:
    """Returns whether a JSON file, complete or truncated, has the mark of this program."""
    head = _head(path)
    if re.match(rf'\s*{{\s*"{JSON_KEY}":\s*"{MARK}', head):
        return True
    try:
        content = read_json(path, finite=False) if head.lstrip().startswith("{") else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= EVALUATION_KEYS


def is_our_metrics(path: Path) -> bool:
    """Returns whether a file is a metrics.jsonl of this program: it is empty, or line 1 has a kind and a step."""
    first = _head(path, 2**16).partition("\n")[0]
    try:
        line = parse_json(first, "its first line", finite=False) if first.strip() else {"kind": "", "step": 0}
    except ValueError:
        return False
    return path.is_file() and isinstance(line, dict) and {"kind", "step"} <= line.keys()


def is_our_table(path: Path) -> bool:
    """Returns whether a classes.yaml begins with the comment that `ClassTable.to_yaml` writes."""
    return _head(path).startswith(TABLE_MARK)


def is_our_recipe(path: Path) -> bool:
    """Returns whether a recipe begins with the comment that training writes into the config.yaml of its folder."""
    return _head(path).startswith(RECIPE_MARK)


def is_our_page(path: Path) -> bool:
    """Returns whether an HTML page was written by `report` or `explain`."""
    return PAGE_MARK.search(_head(path)) is not None


def is_our_picture(path: Path) -> bool:
    """Returns whether a PNG, TIFF or NIfTI file has this program's mark, and unchanged pixels in the same position."""
    return is_sealed(path)


def is_our_model(path: Path) -> bool:
    """Returns whether a file is a model file of this program, of any version."""
    return MARK in safetensors_metadata(path)


def safetensors_metadata(path: Path) -> dict[str, Any]:
    """Returns the metadata of a safetensors file; {} for any other file."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size):
                return {}
            metadata = parse_json(file.read(length), str(path)).get("__metadata__", {})
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def save_json(results: dict[str, Any], path: str | Path) -> None:
    """Writes a JSON file with the mark of this program, atomically.

    Args:
        results: plain dicts, lists, strings and numbers.
        path: the file; its folder is created if missing.
    """
    marked = {JSON_KEY: MARK, **results}
    write_text(path, json.dumps(marked, indent=1, ensure_ascii=False) + "\n")


def save_picture(picture: Image.Image, path: str | Path, **options: Any) -> None:
    """Writes a picture with the mark of this program, atomically.

    Args:
        picture: a picture of any mode that the format supports.
        path: the file; its suffix sets the format, and its folder is created if missing.
        options: options of Pillow's writer for the format.

    Raises:
        AtrousError: no format has this suffix.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    suffix = Path(path).suffix.lower()
    kind = Image.registered_extensions().get(suffix)
    if kind not in Image.SAVE:
        raise AtrousError(f"{path}: '{suffix}' is not the suffix of a picture format; use .png.")
    if kind == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text("Software", UNSEALED)
    elif kind == "TIFF":
        options["software"] = UNSEALED
    with atomic_path(path) as part:
        picture.save(part, kind, **options)
        if kind in ("PNG", "TIFF"):
            seal(part)


def _head(path: Path, length: int = HEAD_BYTES) -> str:
    try:
        with path.open("rb") as file:
            return file.read(length).decode("utf-8", errors="replace")
    except OSError:
        return ""
