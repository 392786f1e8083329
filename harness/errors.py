"""The errors a person may meet, each with its exit code.

AssayError            2   a bad argument, file or model: one line that says what, where and what to do
├── Missing           2   data that are not here, or not whole
├── NotComparable    12   two runs differ in a field that must agree
├── Incomplete       13   the run can be resumed; the line holds the command
└── Invalid          14   a validity check of level E fired

1 is Python's code for an uncaught exception and never a verdict.
"""

from __future__ import annotations


class AssayError(Exception):
    """One line for the user: `what` went wrong, `where` (task, row, file), and what to `do` about it."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        self.what, self.where, self.do = what, where, do
        super().__init__(": ".join(part for part in (where, what) if part) + (f". {do}" if do else ""))


class Missing(AssayError):
    """A run of a whole family goes on without the member that this concerns, and names it."""


class NotComparable(AssayError):
    exit_code = 12


class Incomplete(AssayError):
    exit_code = 13


class Invalid(AssayError):
    exit_code = 14
