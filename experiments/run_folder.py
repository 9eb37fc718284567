"""What a run's folder says of the run, so that it is not continued as another."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxrecon.errors import InputError, excerpt
from jaxrecon.geometry.mesh_writers import write_whole


def require_same(path: pathlib.Path, content: Any) -> None:
    """See that a record, if it is there, says the same.

    Raises:
        InputError: the run was started with something else.
    """
    if path.exists() and path.read_text() != json.dumps(content, indent=1):
        raise InputError(
            f"{path}: differs from this {path.stem}: {excerpt(content)}",
            f"the {path.stem} that the run was started with",
            "use another --out, or the same options",
        )


def write_records(out: pathlib.Path, records: Mapping[str, Any]) -> None:
    """Write each record, JSON by file name, into the folder of a run."""
    out.mkdir(parents=True, exist_ok=True)
    for name, content in records.items():
        write_whole(out / name, json.dumps(content, indent=1).encode())
