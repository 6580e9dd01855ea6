"""What may be written where: no output replaces an input, or a file that this program did not write.

Every verb calls `check_outputs` before its work. A file is ours by a mark inside it: the Software field of a PNG or
TIFF, a key of a JSON file, the metadata of a safetensors file, the generator of an HTML page.
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

#: What every mark says.
MARK = "atrous"
#: The key of the mark in a JSON file, the first of all, so that it is found in a file that was cut off, too.
JSON_KEY = "written_by"
#: The first line of a classes.yaml.
TABLE_MARK = f"# Class table, written by {MARK}."
#: The beginning of a recipe with every field, such as a run's config.yaml.
RECIPE_MARK = f"# A recipe of {MARK}"
#: Keys of `evaluate --json`, by which files of versions without a mark are known.
EVALUATION_KEYS = {"model", "data", "split", "confusion", "per_image"}
#: How a page says what made it; pages of versions without this line say so in their title.
PAGE_MARK = re.compile(r'<meta name="generator" content="atrous\b|<title>[^<]* · atrous (report|explain)</title>')
#: Bytes at the beginning of a text file within which its mark stands.
HEAD_BYTES = 4096
#: Endings of files that a caller may have in mind where a folder is written.
FILE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".html", ".json", ".yaml", ".yml", ".xml"}
    | {".safetensors", ".pt", ".pth", ".pt2", ".onnx", ".tflite", ".zip"}
)
#: A header longer than this is no model's (safetensors' own limit is 100 MB).
MAX_HEADER_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Output:
    """A file that a verb is going to write.

    Args:
        flag: the argument that names it, such as "json".
        path: the file.
        kind: what an existing file must be, to be replaced, in words.
        is_ours: whether an existing file is an earlier output of that kind.
        folder: for one of many files in a folder, the folder that the argument names.
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
    """Refuses, before the work, outputs that would destroy something; nothing is written or made.

    Args:
        verb: the command, for messages.
        outputs: all files that the call is going to write; None is passed over.
        inputs: what it reads, as (what it is, in words; a file or a folder); None is passed over. In a folder, all
            files are inputs that this program did not write.
        overwrite: replace files that this program did not write; inputs are never replaced.

    Raises:
        AtrousError: an output is an input, a folder, another output, or a file that this program did not write; or
            its folder cannot be one.
    """
    given = _Inputs(inputs)
    taken: dict[object, Output] = {}
    foreign: list[Output] = []
    for output in outputs:
        if output is None or is_stream(output.path):
            continue
        if output.folder is not None and output.path.is_dir():
            continue  # one of many, which cannot be written and costs no other
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
    """The inputs of a call, by every name that they have."""

    def __init__(self, inputs: Iterable[tuple[str, str | Path | None]]) -> None:
        given = [(words, Path(path)) for words, path in inputs if path is not None]
        self._folders = [(words, Path(os.path.realpath(path))) for words, path in given if path.is_dir()]
        files = [(words, path) for words, path in given if not path.is_dir()]
        self._files = {key: words for words, path in files for key in _identities(path)}

    def refuse_file(self, output: Output) -> None:
        """Refuses one of the files, by whatever link."""
        for key in _identities(output.path):
            if key in self._files:
                raise AtrousError(
                    f"{output.flag} is {output.path}, {self._files[key]}; give another name. Inputs are never "
                    "overwritten."
                )

    def refuse_inside(self, output: Output) -> None:
        """Refuses a file in one of the folders."""
        real = Path(os.path.realpath(output.path))
        for words, folder in self._folders:
            if real.is_relative_to(folder):
                raise AtrousError(
                    f"{output.flag} is {output.path}, a file of {words} in {folder}; give another name. Inputs are "
                    "never overwritten."
                )


def _identities(path: Path) -> Iterator[object]:
    """The real path, and for an existing file its number on its disk, which hard links and other spellings share."""
    yield os.path.realpath(path)
    try:
        status = path.stat()
    except OSError:
        return
    yield status.st_dev, status.st_ino


def _check_place(output: Output) -> None:
    if output.path.is_dir():
        raise AtrousError(
            f"{output.path} exists and is no {output.kind} of atrous but a folder. Choose another --{output.flag}."
        )
    above = Path(os.path.realpath(output.path)).parent  # where the temporary file will be
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise AtrousError(
            f"cannot make the folder {output.path.parent}: {above} is no folder. Choose another --{output.flag}."
        )
    if output.path.exists() and not os.access(output.path, os.W_OK):
        raise AtrousError(f"{output.flag} is {output.path}, which may not be written; give another name.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise AtrousError(f"{output.flag} is {output.path}, but {above} may not be written; give another name.")


def check_is_folder(flag: str, path: str | Path) -> None:
    """Refuses, before the work, a file's name where a folder for many files is meant; an existing folder is taken.

    Args:
        flag: the argument that names it, such as "out".
        path: the folder that the call is going to write into.

    Raises:
        AtrousError: the name ends as a picture's, a page's, a model's or a text's does.
    """
    path = Path(path)
    if path.suffix.lower() in FILE_SUFFIXES and not path.is_dir():
        raise AtrousError(
            f"{flag} is {path}, which is named like a file; give a folder, which files are written into, such as "
            f"{path.with_suffix('')}."
        )


@contextmanager
def no_empty_folder(folder: Path) -> Iterator[None]:
    """Takes away a folder, and parents of it, that were made in this context and in which nothing was written.

    Args:
        folder: for outputs, there or not; one that was there before stays.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # a folder that holds something, and its parents, stay
            for one in made:
                one.rmdir()


def _refusal(verb: str, foreign: Sequence[Output]) -> AtrousError:
    first = foreign[0]
    if first.folder is None:
        return AtrousError(
            f"{first.path} exists and is no {first.kind} of atrous; give another name for {first.flag}, or --overwrite "
            "to replace it."
        )
    names = [str(each.path.relative_to(first.folder)) for each in foreign if each.folder == first.folder]
    return files_of_others(verb, first.flag, first.folder, names)


def files_of_others(verb: str, flag: str, folder: Path | str, names: Sequence[str]) -> AtrousError:
    """An error for files in an output folder that this program did not write.

    Args:
        verb: the command.
        flag: the argument that names the folder.
        folder: as it is to be shown.
        names: of the files, one or more.
    """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return AtrousError(
        f"{folder} holds files that {verb} did not write and would overwrite: {', '.join(names[:3])}{more}. "
        f"Nothing was written. Give another --{flag}, or --overwrite to replace them."
    )


def check_replaceable(path: str | Path, kind: str, is_ours: Callable[[Path], bool], *, overwrite: bool = False) -> None:
    """Refuses, before a Python caller's file is written, to replace one that this program did not write.

    Args:
        path: the file to write.
        kind: what an existing file must be, in words.
        is_ours: whether an existing file is an earlier output of that kind.
        overwrite: replace any file.

    Raises:
        AtrousError: it is a folder, or such a file.
    """
    path = Path(path)
    if path.is_dir():
        raise AtrousError(f"{path} is a folder; give a file's name.")
    if path.exists() and not overwrite and not is_stream(path) and not is_ours(path):
        raise AtrousError(
            f"{path} exists and is no {kind} of atrous, so it is not replaced; give another name, or overwrite=True."
        )


def json_output(flag: str, path: str | Path | None) -> Output | None:
    """A JSON file, written by `save_json`; None for None."""
    return None if path is None else Output(flag, Path(path), "JSON file", is_our_json)


def model_output(flag: str, path: str | Path | None) -> Output | None:
    """A model file; None for None."""
    return None if path is None else Output(flag, Path(path), "model file", is_our_model)


def table_output(flag: str, path: str | Path | None) -> Output | None:
    """A classes.yaml; None for None."""
    return None if path is None else Output(flag, Path(path), "class table", is_our_table)


def page_output(flag: str, path: str | Path) -> Output:
    """An HTML page."""
    return Output(flag, Path(path), "page", is_our_page)


def picture_output(flag: str, path: str | Path | None, folder: Path | None = None) -> Output | None:
    """A picture, written by `save_picture`, or one of many in a folder; None for None."""
    return None if path is None else Output(flag, Path(path), "picture", is_our_picture, folder)


def model_inputs(model: str | Path) -> list[tuple[str, Path]]:
    """The files that a model is read from, as `check_outputs` takes them: of an .xml the .bin beside it, too."""
    path = Path(model)
    files = [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]
    return [("the model itself", file) for file in files]


def is_our_json(path: Path) -> bool:
    """Whether a JSON file has our mark; one that was cut off has it, too."""
    head = _head(path)
    if re.match(rf'\s*{{\s*"{JSON_KEY}":\s*"{MARK}', head):
        return True
    try:
        content = read_json(path, finite=False) if head.lstrip().startswith("{") else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= EVALUATION_KEYS


def is_our_metrics(path: Path) -> bool:
    """Whether a file is a metrics.jsonl of ours: it is empty, or its first line has a kind and a step."""
    first = _head(path, 2**16).partition("\n")[0]
    try:
        line = parse_json(first, "its first line", finite=False) if first.strip() else {"kind": "", "step": 0}
    except ValueError:
        return False
    return path.is_file() and isinstance(line, dict) and {"kind", "step"} <= line.keys()


def is_our_table(path: Path) -> bool:
    """Whether a classes.yaml begins with the comment that `ClassTable.to_yaml` writes."""
    return _head(path).startswith(TABLE_MARK)


def is_our_recipe(path: Path) -> bool:
    """Whether a recipe begins with the comment that a training writes into its folder's config.yaml."""
    return _head(path).startswith(RECIPE_MARK)


def is_our_page(path: Path) -> bool:
    """Whether an HTML page was written by `report` or `explain`."""
    return PAGE_MARK.search(_head(path)) is not None


def is_our_picture(path: Path) -> bool:
    """Whether a PNG or TIFF has our mark, and the pixels that it was written with."""
    return is_sealed(path)


def is_our_model(path: Path) -> bool:
    """Whether a file is a model file of ours, of any version."""
    return MARK in safetensors_metadata(path)


def safetensors_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a safetensors file; {} of any other file."""
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
    """Writes a JSON file with our mark, atomically.

    Args:
        results: plain dicts, lists, strings and numbers.
        path: the file; its folder is made.
    """
    marked = {JSON_KEY: MARK, **results}
    write_text(path, json.dumps(marked, indent=1, ensure_ascii=False) + "\n")


def save_picture(picture: Image.Image, path: str | Path, **options: Any) -> None:
    """Writes a picture with our mark, atomically.

    Args:
        picture: of any mode that the format has.
        path: the file; its ending names the format, and its folder is made.
        options: of Pillow's writer for the format.

    Raises:
        AtrousError: an ending that no format has.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    suffix = Path(path).suffix.lower()
    kind = Image.registered_extensions().get(suffix)
    if kind not in Image.SAVE:
        raise AtrousError(f"{path}: no picture can be written under a name that ends in '{suffix}'; end it in .png.")
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
