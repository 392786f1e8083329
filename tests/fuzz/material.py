"""What fuzzers feed: valid material with something wrong in it, as values and as bytes."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

WORDS = (
    "",
    " ",
    "a",
    "0",
    "-1",
    "1e999",
    "NaN",
    "true",
    "\x00",
    "\ud800",
    "\u202e",
    "\r\n",
    "../../x",
    "/etc/passwd",
    "{{7*7}}",
    "'; --",
    "é" * 40,
)
ODD = (None, True, False, 0, 1, -1, 7, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), [], {}, [[]], "x" * 5000)
scalars = st.one_of(st.sampled_from(ODD), st.sampled_from(WORDS), st.integers(), st.floats(), st.text(max_size=12))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS[2:8]) | st.text(max_size=6), inner, max_size=4),
    max_leaves=6,
)
NOISE = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"NaN",
    b"1e999",
    b"[" * 3000,
    b'{"a":' * 1500,
    b"9" * 5000,
    b'"',
    b"\\ud800",
    b"\n",
    b",",
    b"\r",
)


def edited(draw: st.DrawFn, value: Any) -> Any:
    """The value with one place changed: replaced, removed, doubled or renamed."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value, key=str)))
        act = draw(st.integers(0, 9))
        if act == 0:
            del value[key]
        elif act == 1:
            value[draw(st.sampled_from(WORDS))] = value.pop(key)
        else:
            value[key] = edited(draw, value[key])
        return value
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(value) - 1))
        act = draw(st.integers(0, 9))
        if act == 0:
            del value[at]
        elif act == 1:
            value.insert(at, copy.deepcopy(value[at]))
        else:
            value[at] = edited(draw, value[at])
        return value
    return copy.deepcopy(draw(values))


@st.composite
def mutants(draw: st.DrawFn, *valid: Any) -> Any:
    """One of the valid JSON values with up to four places changed; sometimes anything at all."""
    if draw(st.integers(0, 29)) == 0:
        return copy.deepcopy(draw(values))
    value = copy.deepcopy(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 4))):
        value = edited(draw, value)
    return value


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Bytes, mostly whole; else cut, flipped, with noise put in, or with a piece moved."""
    data = draw(whole)
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 1, 2)))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        act = draw(st.integers(0, 4))
        if act == 0:
            data = data[:at]
        elif act == 1 and data:
            data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
        elif act == 2:
            data = data[:at] + draw(st.sampled_from(NOISE)) + data[at:]
        elif act == 3:
            data = data[:at] + data[at + draw(st.integers(1, 16)) :]
        else:
            data = data[:at] + draw(st.binary(max_size=8)) + data[at:]
    return data


def to_bytes(value: Any) -> bytes:
    """JSON as a stranger may write it: NaN and lone surrogates included."""
    return json.dumps(value).encode()


def json_files(*valid: Any) -> st.SearchStrategy[bytes]:
    return damaged(mutants(*valid).map(to_bytes))
