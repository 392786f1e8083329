"""Check the values in lm-eval's samples against the log-likelihoods stored with them, by lm-eval's own rules.

Source: lm_eval 0.4.13, api/task.py, process_results. Not checked: tasks with their own `process_results`, several contexts with one
continuation (Winogrande), and generated text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from assay.harness.errors import Invalid
from assay.harness.run.scoring.lm_eval_items import Sampled, nonfinite, number

PAIRS = ("f1", "mcc")
"""Metrics whose values are pairs (gold index, picked index)."""
LENGTHS: Mapping[str, Callable[[str], int]] = {
    **dict.fromkeys(("acc", *PAIRS), lambda text: 1),
    "acc_norm": len,
    "acc_bytes": lambda text: len(text.encode()),
}
"""The length that divides a choice's log-likelihood before the highest is picked."""
UNIT_RANGE = ("acc", "exact_match", "pass@")
"""Prefixes of the names of lm-eval metrics whose values lie between 0 and 1."""


def check_values(base: str, rows: Sequence[Sampled], config: Mapping[str, Any], where: str) -> bool:
    """Whether the samples' values of a metric may be scored: False for choices where the gold cannot be read from the sample.

    Raises Invalid where a value contradicts its log-likelihoods or lies outside its range.
    """
    do = "import the unchanged files that lm-eval wrote"
    known = True
    for sample in rows:
        value, item = sample.row[base], f"item {sample.doc_id!r:.40}"
        if nonfinite(value):  # comes in without statistics
            continue
        if base.startswith(UNIT_RANGE) and isinstance(value, int | float) and not 0 <= value <= 1:
            raise Invalid(f"{base} of {item} is {value}, expected a value from 0 to 1", where=where, do=do)
        allowed = None if config.get("process_results") else possible(base, sample, config.get("target_delimiter", " "))
        if allowed is None or (base in PAIRS and not isinstance(value, list)):
            continue
        if not allowed:
            known = False
        elif value not in allowed:
            raise Invalid(f"{base} of {item} is {value}, its log-likelihoods give {allowed[0]}", where=where, do=do)
    return known


def possible(base: str, sample: Sampled, delimiter: Any) -> list[Any] | None:
    """The values that lm-eval may have stored for an item: empty where the gold cannot be read, None where the item has no choices."""
    sent, replies = sample.arguments, sample.row.get("resps")
    if base not in LENGTHS or sample.ask != "choose" or not isinstance(replies, list) or len(replies) != len(sent):
        return None
    if len(sent) == 1:
        greedy = {"True": 1.0, "False": 0.0}.get(greedy_flag(replies[0]))
        return None if greedy is None or base != "acc" else [greedy]
    if "acc_mutual_info" in sample.row:  # the second half are the choices without context
        sent, replies = sent[: len(sent) // 2], replies[: len(sent) // 2]
    if len({str(each.get("arg_0")) for each in sent}) > 1:
        return None
    texts = [str(each.get("arg_1")) for each in sent]
    sums = [number(reply) for reply in replies]
    golds = golds_of(str(sample.row.get("target", "")), texts)
    if None in sums:
        return []
    picks = {pick(sums, [LENGTHS[base](text) for text in reading]) for reading in without_joint(texts, delimiter)}
    if base in PAIRS:
        return [[gold, each] for found in golds for gold in found for each in picks]
    return [float(each in found) for found in golds for each in picks]


def greedy_flag(reply: Any) -> str:
    """lm-eval's text "True" or "False" for whether the continuation is the greedy one; empty where a reply has none."""
    while isinstance(reply, list) and len(reply) == 1:
        reply = reply[0]
    return str(reply[1]) if isinstance(reply, list) and len(reply) == 2 else ""


def without_joint(texts: Sequence[str], delimiter: Any) -> list[Sequence[str]]:
    """The choices without their delimiter, and as sent: under a chat template there is no delimiter, and the file does not say which."""
    bare = isinstance(delimiter, str) and delimiter != "" and all(text.startswith(delimiter) for text in texts)
    return [*([[text.removeprefix(delimiter) for text in texts]] if bare else []), texts]


def pick(sums: Sequence[Any], lengths: Sequence[int]) -> int:
    with np.errstate(all="ignore"):
        return int(np.argmax(np.array(sums, dtype=float) / np.array(lengths, dtype=float)))


def golds_of(target: str, texts: Sequence[str]) -> list[list[Any]]:
    """The gold choices under every possible reading of a target: an index, a list of indices, or the text of a choice."""
    try:
        value = {"True": 1, "False": 0}.get(target, json.loads(target) if target[:1] in "[-0123456789" and len(target) < 1000 else None)
    except (ValueError, RecursionError):
        value = None
    found = [] if value is None else [value if isinstance(value, list) else [value]]
    bare = [text.strip() for text in texts]
    return [*found, [bare.index(target.strip())]] if target.strip() in bare else found
