"""The errors that assay shows to users, each with its exit code.

AssayError            2   a bad argument, file or model: one line that says what, where and what to do
├── Missing           2   data are missing or incomplete
├── NotComparable    12   two runs differ in a field that must agree
├── Incomplete       13   the run can be resumed; the message contains the command
└── Invalid          14   a validity check found an error

1 is Python's code for an uncaught exception; assay never exits with it on purpose.
"""

from __future__ import annotations

import re

NAMED = (
    r"(?:api|access|secret|private|signing)[_-]?key|(?:access|auth|refresh|id|hf|bot|security)[_-]?token|client[_-]?secret|passw(?:or)?d"
)
SECRETS = re.compile(
    r"\b(?:hf|api_org)_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9_-]{12,}|\b[srp]k_(?:live|test)_[A-Za-z0-9]{10,}"
    r"|\bgh[oprsu]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}|\bxox[a-z]-[A-Za-z0-9-]{10,}"
    r"|\bA[KS]IA[A-Z0-9]{12,}|\bAIza[\w-]{30,}|\bnvapi-[\w-]{16,}"
    r"|\beyJ[\w-]{5,2000}\.eyJ[\w-]{2,4000}(?:\.[\w-]*)?"  # JSON web tokens
    r"|(?P<before>\bbearer\s+|authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token|digest|negotiate|apikey)\s+)?)[^\s'\"]+"
    rf"|(?P<name>(?:[?&;](?:[\w-]*(?:token|key|secret|signature|credential)|sig)|(?:{NAMED})['\"]?)\s?[:=]\s?['\"]?)[^\s'\"&,;)}}\]]+"
    r"|(?<=://)(?:[^\s/?#]{1,400}|[^\s/@:\[]{1,100}:(?!\d*[/?#])[^\s@]{1,200})(?=@)",  # in a URL, up to the last @ before its path
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text with tokens, keys, and passwords in URLs replaced by ***. Messages of libraries may contain them."""
    return SECRETS.sub(lambda found: f"{found['before'] or found['name'] or ''}***", text)


class AssayError(Exception):
    """One line for the user: `what` went wrong, `where` (task, row, file), and what to `do` about it."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", do: str = "") -> None:
        self.what, self.where, self.do = redact(str(what)), redact(str(where)), redact(str(do))
        super().__init__(": ".join(part for part in (self.where, self.what) if part) + (f". {self.do}" if do else ""))


class Missing(AssayError):
    """A run of a task family skips the task whose data are missing, and reports it."""


class NotComparable(AssayError):
    exit_code = 12


class Incomplete(AssayError):
    exit_code = 13


class Invalid(AssayError):
    exit_code = 14
