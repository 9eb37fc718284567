"""Optional packages and the files they need: imported where they are used, missed in one way."""

from __future__ import annotations

import importlib
import pathlib
from types import ModuleType

from jaxrecon.errors import InputError


def require(module: str, pip: str, job: str) -> ModuleType:
    """The module of an optional package.

    Args:
        module: its name.
        pip: what pip installs it by.
        job: what it is needed for.

    Raises:
        InputError: it is not installed, or it is but cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == module
        why = "is not installed" if absent else f"cannot be imported ({str(error)[:120]})"
        raise InputError(
            f"{job} needs the package {module}, which {why}",
            "an optional package",
            f"python -m pip install {pip}",
        ) from error


def model_file(path: str | pathlib.Path, what: str) -> pathlib.Path:
    """A file of weights that the user brings.

    Raises:
        InputError: there is no file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"no file at {path}", what, "check the name; none comes with the package")
    return path
