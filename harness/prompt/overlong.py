"""Items that do not fit the model's context: refused, skipped, or cut on the left."""

from __future__ import annotations

from dataclasses import replace

from assay.harness.errors import AssayError
from assay.harness.prompt.tokens import EncodedPair, Tokenizer
from assay.harness.store.plan import Plan


def positions_of(pair: EncodedPair) -> int:
    """Positions that a request takes: its context and the longest continuation, in tokens."""
    return len(pair.context) + max((len(ids) for ids in pair.continuations), default=0)


def refuse_overlong(long: dict[str, int], items: int, positions: int, task: str, plan: Plan) -> None:
    """Raises AssayError where items (by id, with the tokens that they need) do not fit and the plan neither skips nor cuts them."""
    if not long or plan.overlong != "error":
        return
    size = f"model's context of {positions} tokens (the longest needs {max(long.values())})"
    raise AssayError(
        f"{len(long)} of {items} prompts are longer than the {size}",
        where=f"{task}, first item {next(iter(long))}",
        do="use --overlong skip or --overlong truncate-left, fewer --shots, --drop-shots, or a model with a longer context",
    )


def cut_left(pair: EncodedPair, room: int, tokenizer: Tokenizer, where: str) -> tuple[str, EncodedPair]:
    """The end of the prompt that fits into `room` positions with the longest continuation, as text and as ids; BOS stays.

    Raises AssayError where no token of the prompt would be left.
    """
    kept = len(tokenizer.prefix) if pair.context[: len(tokenizer.prefix)] == tokenizer.prefix else 0
    start = kept + positions_of(pair) - room
    if start >= len(pair.context):
        what = "the answer alone does not fit the model's context"
        raise AssayError(what, where=where, do="use --overlong skip, or a model with a longer context")
    rest = pair.context[start:]
    return tokenizer.decode(rest), replace(pair, context=pair.context[:kept] + rest)
