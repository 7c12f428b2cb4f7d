"""Records and reports on disk: written whole or not at all, and read with an error that says what to do."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from sonet.report.record import SCHEMA, Record
from sonet.report.schema import Entry

E = TypeVar("E", bound=Entry)

RECORD = "record.json"
"""The name of a record's file in its folder."""


class RecordError(ValueError):
    """A record that cannot be read. The message says what was found, what was expected and what to do."""


def write_whole(path: Path | str, content: str | bytes) -> Path:
    """Write a file such that a reader finds the old content or the new, never a part of it.

    The content goes to a temporary file in the same folder, to the disk, and then takes the place of the old file in
    one step (POSIX rename). When anything fails the old file stays and the temporary file goes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def claim(folder: Path, mark: str, content: str) -> bool:
    """Whether `folder` holds this work already (True), after a kill for example, or is free to take (False).

    `mark` is the file that says whose the folder is, `content` what it must say. A folder of another work, or with
    other files, is a `RecordError`, and nothing in it is touched.
    """
    file = folder / mark
    if file.is_file():
        if file.read_text() != content:
            raise RecordError(
                f"{folder} holds another experiment (its {mark} differs: other settings, seeds or images, or an older "
                "version). Give another --out, or remove the folder."
            )
        return True
    if folder.exists() and not folder.is_dir():
        raise RecordError(f"{folder} is a file, expected a folder for the record; give another one with --out.")
    # What a run killed at its very first file left behind is not somebody else's.
    if folder.exists() and any(not entry.name.startswith(f".{mark}.") for entry in folder.iterdir()):
        raise RecordError(f"{folder} is not empty and holds no {mark}; give a new folder with --out.")
    return False


def write(record: Record, folder: Path | str) -> Path:
    """Write `folder`/record.json, making the folder where it is missing; gives its path."""
    return write_whole(Path(folder) / RECORD, record.model_dump_json(indent=1) + "\n")


def read(path: Path | str) -> Record:
    """The record in a file, or in the record.json of a folder.

    Errors: RecordError where there is no file, its JSON is cut short, it has another schema or does not fit it.
    """
    return read_as(Record, path, RECORD, SCHEMA, "experiment")


def read_as(kind: type[E], path: Path | str, name: str, schema: str, work: str) -> E:
    """An entry of this kind and schema in a file, or in the file `name` of a folder; `work` is what writes it.

    Errors: RecordError, as `read`.
    """
    path = Path(path)
    if path.is_dir():
        path = path / name
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RecordError(
            f"{path}: expected a record, got {error.strerror or error}. "
            f"Give the path of a {name} or its folder, or run the {work} first."
        ) from error
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:  # ValueError also covers text that is not UTF-8
        raise RecordError(
            f"{path}: expected JSON, got {len(raw)} bytes that do not parse ({error}). "
            f"The file was cut short or changed by hand; take an undamaged copy or run the {work} again."
        ) from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != schema:
        raise RecordError(
            f'{path}: expected schema "{schema}", got {json.dumps(found)}. Another version may give the same names '
            f"other meanings; read it with the version of sonet that wrote it, or run the {work} again."
        )
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'the record'}: {problem['msg']}" for problem in error.errors()[:3]
        )
        raise RecordError(
            f"{path}: expected a record that fits {schema}, got {error.error_count()} misfit(s): {problems}. "
            f"It was changed by hand or by another program; undo that or run the {work} again."
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last through a power cut; some file systems cannot, and then nothing is lost but that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
