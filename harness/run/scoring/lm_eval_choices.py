"""What lm-eval's samples say of choices, held against the log-likelihoods beside it, by lm-eval's own rules.

Source: lm_eval 0.4.13, api/task.py, process_results. A task whose own code judges (`process_results`), several contexts with one
continuation (Winogrande) and generated text hold no more than what they say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from assay.harness.errors import Invalid
from assay.harness.run.scoring.lm_eval_items import Sampled, number

PAIRS = ("f1", "mcc")
"""Metrics whose values are the right choice and the one taken."""
LENGTHS: Mapping[str, Callable[[str], int]] = {
    **dict.fromkeys(("acc", *PAIRS), lambda text: 1),
    "acc_norm": len,
    "acc_bytes": lambda text: len(text.encode()),
}
"""By what a choice's log-likelihood is divided before the highest is taken."""
BETWEEN = ("acc", "exact_match", "pass@")
"""Beginnings of the names of metrics that lie between 0 and 1 wherever lm-eval writes them."""


def check_values(base: str, rows: Sequence[Sampled], config: Mapping[str, Any], where: str) -> bool:
    """Whether the samples' values of a metric may be scored: False where they are of choices, and which is right cannot be read.

    Raises Invalid where a sample contradicts its log-likelihoods, or a share is none.
    """
    do = "find out which file was changed; neither is imported"
    known = True
    for sample in rows:
        value, item = sample.row[base], f"item {sample.doc_id!r:.40}"
        if base.startswith(BETWEEN) and isinstance(value, int | float) and not 0 <= value <= 1:
            raise Invalid(f"{base} of {item} is {value}, which is no share", where=where, do=do)
        allowed = None if config.get("process_results") else possible(base, sample, config.get("target_delimiter", " "))
        if allowed is None or (base in PAIRS and not isinstance(value, list)):
            continue
        if not allowed:
            known = False
        elif value not in allowed:
            raise Invalid(f"{base} of {item} is {value}, its log-likelihoods give {allowed[0]}", where=where, do=do)
    return known


def possible(base: str, sample: Sampled, delimiter: Any) -> list[Any] | None:
    """The values that lm-eval can have given an item, none where the right choice cannot be read; None where it is not about choices."""
    asked, replies = sample.arguments, sample.row.get("resps")
    if base not in LENGTHS or sample.ask != "choose" or not isinstance(replies, list) or len(replies) != len(asked):
        return None
    if len(asked) == 1:
        greedy = {"True": 1.0, "False": 0.0}.get(second(replies[0]))
        return None if greedy is None or base != "acc" else [greedy]
    if "acc_mutual_info" in sample.row:  # the second half are the choices without context
        asked, replies = asked[: len(asked) // 2], replies[: len(asked) // 2]
    if len({str(each.get("arg_0")) for each in asked}) > 1:
        return None
    texts = [str(each.get("arg_1")) for each in asked]
    sums = [number(reply) for reply in replies]
    golds = golds_of(str(sample.row.get("target", "")), texts)
    if None in sums:
        return []
    picks = {pick(sums, [LENGTHS[base](text) for text in reading]) for reading in readings(texts, delimiter)}
    if base in PAIRS:
        return [[gold, each] for found in golds for gold in found for each in picks]
    return [float(each in found) for found in golds for each in picks]


def second(reply: Any) -> str:
    """Whether the answer was the greedy one, as lm-eval writes it beside the log-likelihood."""
    while isinstance(reply, list) and len(reply) == 1:
        reply = reply[0]
    return str(reply[1]) if isinstance(reply, list) and len(reply) == 2 else ""


def readings(texts: Sequence[str], delimiter: Any) -> list[Sequence[str]]:
    """The choices without the joint before them, and as sent: under a chat template there is no joint, and the file does not say."""
    bare = isinstance(delimiter, str) and delimiter != "" and all(text.startswith(delimiter) for text in texts)
    return [*([[text.removeprefix(delimiter) for text in texts]] if bare else []), texts]


def pick(sums: Sequence[Any], lengths: Sequence[int]) -> int:
    with np.errstate(all="ignore"):
        return int(np.argmax(np.array(sums, dtype=float) / np.array(lengths, dtype=float)))


def golds_of(target: str, texts: Sequence[str]) -> list[list[Any]]:
    """The right choices, by every way to read a target: an index, a list of them, or a choice's text."""
    try:
        value = {"True": 1, "False": 0}.get(target, json.loads(target) if target[:1] in "[-0123456789" and len(target) < 1000 else None)
    except (ValueError, RecursionError):
        value = None
    found = [] if value is None else [value if isinstance(value, list) else [value]]
    bare = [text.strip() for text in texts]
    return [*found, [bare.index(target.strip())]] if target.strip() in bare else found
