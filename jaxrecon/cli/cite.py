"""`jaxrecon cite SYSTEM`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from jaxrecon.cite import SYSTEMS, cite


@dataclasses.dataclass(frozen=True)
class Cite:
    """Print BibTeX of the papers behind a system."""

    system: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(metavar="SYSTEM", help=f"One of {', '.join(SYSTEMS)}."),
    ]


def run(args: Cite) -> int:
    """Print the entries; an unknown name is an `InputError`."""
    print(cite(args.system))
    return 0
