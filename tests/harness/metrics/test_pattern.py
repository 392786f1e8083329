"""Regular expressions from files finish in time, or are refused. Run: pytest tests/harness/metrics/test_pattern.py"""

from __future__ import annotations

import re
import time

import pytest

from assay.harness.errors import AssayError
from assay.harness.metrics.bigbench import Extract
from assay.harness.metrics.pattern import check_regex, max_search_length

PLAIN = (r"[-+]?\d+", r"([-+]?\d+)[.]{0,1}$", r"[\w]+", r"[^\.\?\!\;\n]+", r"\w+ \w+", r"[A-Z ]+", r"\d{4}-\d{2}", "(?i)yes|no|maybe")
SLOW = (
    ".*.*$b",
    "x*y*b",
    r"(a*)\1b",
    "(?:a|aa)(?:a|aa)(?:a|aa)b",
    "a?a?a?a?a?a?.*.*b",
    "(?:a|a|a|a|a|a|a|a)(?:a|a|a|a|a|a|a|a)a*b",
    "(?=a*)a*b",
)
ENDLESS = (
    "(a+)+$",
    "(?:a|a?)" * 28 + "b$",
    "a?" * 60 + "a" * 60,
    "(a|b|ab)" * 30 + "c",
    "(?x)(a+)#x\n+b",
    "(?i:a){2,9}b",
    "a*a*a*b",
    "(?:aa)*b",
)


@pytest.mark.parametrize("pattern", PLAIN)
def test_plain_patterns_are_fine(pattern: str) -> None:
    """The first ones are those of BIG-bench's own tasks."""
    check_regex(pattern, "x")
    assert max_search_length(pattern) >= 500
    text = "-12. yes no 2024-05 " + "a" * 400
    assert Extract(regex=pattern)(text) == (re.findall(pattern, text) or [""])[0]


@pytest.mark.parametrize("pattern", SLOW)
def test_what_is_accepted_ends_in_time(pattern: str) -> None:
    check_regex(pattern, "x")
    began = time.process_time()
    Extract(regex=pattern)("a" * 100_000)
    assert time.process_time() - began < 10


@pytest.mark.parametrize("pattern", ENDLESS)
def test_what_may_never_end_is_refused(pattern: str) -> None:
    with pytest.raises(AssayError, match="can take forever"):
        check_regex(pattern, "task.json: output_regex")


@pytest.mark.parametrize(
    ("pattern", "what"), [("[", "is no regular expression"), ("a" * 301, "is longer than 300"), ("(a)(?(1)b|c)", "condition")]
)
def test_other_faults_are_named(pattern: str, what: str) -> None:
    with pytest.raises(AssayError, match=what):
        check_regex(pattern, "x")
