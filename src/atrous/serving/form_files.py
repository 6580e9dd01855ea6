"""Reads the files in a form (multipart/form-data), and writes error messages for forms that are not allowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence

from starlette.datastructures import FormData, Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from atrous.errors import nearest
from atrous.input_spec import IMAGE
from atrous.serving.request_limits import Problem

#: Largest size of a form without its files, in bytes.
FORM_BYTES = 2**16
#: Name of the form field of the picture's file in the documentation; other names are accepted, too.
FILE_FIELD = "picture"


def files_in_form(
    headers: Headers, content: bytes, parameters: Collection[str] = (), further: Sequence[str] = ()
) -> tuple[bytes, ...]:
    """Returns the files in a form. Call it in a worker thread: parsing a form of only boundaries takes seconds.

    Args:
        headers: headers of the request.
        content: body of the request.
        parameters: names of all query parameters, for messages.
        further: names of the model's inputs other than the picture; their files are in fields of these names.

    Returns:
        The file of the picture, then the files of the further inputs.

    Raises:
        Problem: the body is not a form, has too few or too many files, or has a text field, which is not supported.
    """

    async def parts() -> AsyncGenerator[bytes, None]:
        yield content

    async def parse() -> FormData:
        parser = MultiPartParser(headers, parts(), max_files=1 + len(further), max_fields=8, max_part_size=FORM_BYTES)
        parser.spool_max_size = len(content) + 1  # with this setting, the parser writes no temporary file
        return await parser.parse()

    try:
        form = asyncio.run(parse())
    except MultiPartException as error:
        raise Problem(400, f"the form cannot be read: {error.message}") from error
    except Exception as error:  # the parser raises many types of errors on malicious forms
        raise Problem(400, "the form cannot be read.") from error
    files = [value for _, value in form.multi_items() if not isinstance(value, str)]
    for name, value in form.multi_items():
        if isinstance(value, str):
            for file in files:
                file.file.close()
            raise Problem(422, _text_field(name, value, parameters))
    if not files and not further:
        raise Problem(400, "the form contains no file: send the picture as a file of the form, or as the whole body.")
    named = [(name, value) for name, value in form.multi_items() if not isinstance(value, str)]
    read = []
    for name, value in named:
        with value.file as file:
            read.append((name, file.read()))
    if not further:
        return (read[0][1],)
    pictures = [file for name, file in read if name in (FILE_FIELD, IMAGE)]
    others = {name: file for name, file in read if name in further}
    if len(pictures) != 1 or len(others) != len(further) or len(read) != 1 + len(further):
        given = ", ".join(name[:40] for name, _ in read) or "no file"
        raise Problem(422, f"this model needs more than one file: {form_of(further)}. The form has {given}.")
    return (pictures[0], *(others[name] for name in further))


def form_of(further: Sequence[str]) -> str:
    """Returns the instruction for sending the files of a model with these further inputs."""
    fields = " ".join(f"-F {name}=@{name}.png" for name in further)
    return f"send a form with a file for each input; with curl: -F {FILE_FIELD}=@picture.png {fields}"


def _text_field(name: str, value: str, parameters: Collection[str]) -> str:
    """Returns the error message about a text field in a form."""
    shown = name[:100]
    if name == FILE_FIELD:
        return f"the form's field {FILE_FIELD} is text, not a file. With curl, send -F {FILE_FIELD}=@picture.jpg."
    near = nearest(name, parameters)
    if near is None:
        known = f"unknown form field '{shown}': a form contains only the picture's file, in the field {FILE_FIELD}; "
        return f"{known}the query parameters are {', '.join(sorted(parameters))}."
    return (
        f"unknown form field '{shown}': a form contains only the picture's file. Did you mean the query parameter "
        f"'{near}', as in '?{near}={value[:40]}'?"
    )
