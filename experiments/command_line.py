"""Command lines of the experiments: a frozen dataclass of plain fields, read by tyro, or by
argparse where tyro is not installed; and what those that make a table of subjects share.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from jaxrecon.errors import InputError

T = TypeVar("T")


def parse(cls: type[T], argv: list[str] | None = None) -> T:
    """An instance of a dataclass from the command line; leaves with 2 on bad usage.

    With tyro the docstrings of the fields are the help text; with argparse their defaults alone.
    """
    try:
        import tyro
    except ImportError:
        return parse_plainly(cls, argv)
    return tyro.cli(cls, args=argv)


def parse_plainly(cls: type[T], argv: list[str] | None = None) -> T:
    """`parse` by argparse; fields are str, int, float, bool or Path, or one of them or None."""
    parser = argparse.ArgumentParser(
        description=(cls.__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(typing.cast(Any, cls)):
        flag, kind = f"--{field.name.replace('_', '-')}", hints[field.name]
        if isinstance(kind, types.UnionType):
            kind = next(a for a in typing.get_args(kind) if a is not type(None))
        if kind is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(flag, action=action, default=field.default, help=" ")
        elif field.default is dataclasses.MISSING:
            parser.add_argument(flag, type=kind, required=True, help=f"{kind.__name__}, required")
        else:
            parser.add_argument(flag, type=kind, default=field.default, help=kind.__name__)
    return cls(**vars(parser.parse_args(argv)))


def write_table(
    evaluate: Callable[[T], list[dict] | dict], arguments: T, out: pathlib.Path | None
) -> int:
    """Exit code of a command that makes a record or several, and writes them as JSON where `out`
    says: 2 with a message where the input is to blame.
    """
    try:
        table = evaluate(arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if out is not None:
        out.write_text(json.dumps(table, indent=1) + "\n")
    return 0


def views_folders(subjects: pathlib.Path) -> list[pathlib.Path]:
    """Views folders with cameras in a folder of subjects, by name.

    Raises:
        InputError: there are none.
    """
    folders = sorted(p.parent for p in subjects.glob("*/cameras.json"))
    if not folders:
        raise InputError(f"{subjects}: no views folders", "folders with cameras.json")
    return folders


def view_numbers(text: str | None) -> tuple[int, ...] | None:
    """The numbers of `0,1,3`; None stays None."""
    return tuple(int(v) for v in text.split(",")) if text else None
