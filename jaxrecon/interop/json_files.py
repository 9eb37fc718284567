"""JSON files of users and of other tools, read with a cap and one kind of error."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from jaxrecon.errors import InputError

_MAX_BYTES = 32_000_000


def read_json(path: pathlib.Path) -> dict | None:
    """The object in a JSON file, or None when there is no file.

    Raises:
        InputError: unreadable, over 32 MB, no JSON, or no object at the top.
    """
    if not os.path.lexists(path):
        return None
    document = read_json_value(path)
    if not isinstance(document, dict):
        raise _refused(path, "it holds no object at the top")
    return document


def read_json_value(path: pathlib.Path) -> Any:
    """Whatever a JSON file holds at its top: an object, a list, a number.

    Raises:
        InputError: absent, unreadable, over 32 MB, or no JSON.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise ValueError("it is not a file" if os.path.lexists(path) else "no such file")
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"over {_MAX_BYTES // 10**6} MB")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        raise _refused(path, error) from error


def _refused(path: pathlib.Path, why: Any) -> InputError:
    return InputError(
        f"{path} cannot be read as JSON: {why}", expected="one JSON object { ... } in UTF-8"
    )
