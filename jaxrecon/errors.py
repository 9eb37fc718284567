"""One error style: say what was given, what is expected, and how to mend it.

The command line turns an `InputError` into one message and exit code 2; everything else is our
fault (code 1).
"""

from __future__ import annotations

import json
from typing import Any

FAULTS = (AssertionError, AttributeError, NameError)
"""What no file raises, however damaged: where it comes up in a reader, the reader is wrong."""


class InputError(ValueError):
    """The user's input cannot be used.

    Args:
        given: what was found, naming the file where there is one.
        expected: what would have been accepted.
        remedy: what to do about it.
    """

    def __init__(self, given: str, expected: str = "", remedy: str = ""):
        self.given, self.expected, self.remedy = given, expected, remedy
        lines = [given]
        if expected:
            lines.append(f"  expected: {expected}")
        if remedy:
            lines.append(f"  remedy:   {remedy}")
        super().__init__("\n".join(lines))


def excerpt(value: Any) -> str:
    """The beginning of a value as JSON, for messages; its type's name where JSON cannot say it."""
    try:
        text = json.dumps(value, default=str)
    except (RecursionError, TypeError, ValueError):  # lists in lists in lists; odd keys; circles
        return type(value).__name__
    return text if len(text) <= 120 else text[:117] + "..."
