"""Tokens that each way computes on all of MMLU, 5 shots, counted from the requests alone: no model, no clock.

    python -m tests.bench.tokens [--tasks mmlu] [--shots 5]

Writes results/speed/mmlu_tokens.csv. The rules: lm-eval on vLLM computes every request whole (prompt_logprobs turns reading the prefix
cache off); lm-eval on transformers computes every distinct context + continuation[:-1] whole; ours in transformers computes every distinct
prefix once; ours in vLLM computes what the prefix cache does not hold in whole blocks.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from assay import Plan
from assay.harness.engines.request import ScoreGroup
from assay.harness.engines.trie import logical_tokens, of_groups, sortable
from assay.harness.engines.vllm_offline.score_requests import probes, tree_of
from assay.harness.files.places import surroundings
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.run.prepare import prepare_task
from assay.harness.run.selection import select
from tests.bench.csv_file import write_rows


@dataclass(frozen=True, slots=True)
class Count:
    task: str
    items: int
    lm_eval_vllm: int
    lm_eval_hf: int
    ideal: int
    vllm_block_16: int
    vllm_block_32: int


def in_blocks(groups: Sequence[ScoreGroup], block: int) -> int:
    """Tokens that vLLM computes for our root and leaf requests, in the order they are sent, with an endless prefix cache."""
    held: set[bytes] = set()
    computed = 0
    for group in sorted(groups, key=lambda group: sortable(group.context)):
        tree = tree_of(group.continuations)
        for probe in probes(tree, True):
            prompt = sortable(tuple(tree.prompt(group.context, probe.node)))
            size, hit = len(prompt) // 4, 0
            while hit + block < size and prompt[: 4 * (hit + block)] in held:
                hit += block
            held.update(prompt[: 4 * stop] for stop in range(hit + block, size + 1, block))
            computed += size - hit
    return computed


def count_of(task: str, groups: Sequence[ScoreGroup]) -> Count:
    return Count(
        task,
        len(groups),
        logical_tokens(groups),
        sum(len(whole) for group in groups for whole in {group.context + ids[:-1] for ids in group.continuations}),
        len(of_groups(groups)),
        in_blocks(groups, 16),
        in_blocks(groups, 32),
    )


def main() -> None:
    here = surroundings()
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tokens", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=here.cache / "models" / "smollm2-135m-instruct")
    parser.add_argument("--tasks", default="mmlu")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "results" / "speed" / "mmlu_tokens.csv")
    wanted = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer, plan = open_tokenizer(wanted.model), Plan(str(wanted.model), (wanted.tasks,), shots=wanted.shots)
    found = []
    for task in select(plan.tasks, here.access()).tasks:
        items = prepare_task(task, plan, here.access(), tokenizer, 1 << 20).items
        found.append(count_of(task.full_name, [each for item in items for each in item.requests if isinstance(each, ScoreGroup)]))
        print(found[-1], file=sys.stderr, flush=True)
    names = [field.name for field in fields(Count)]
    total = Count("all", *(sum(getattr(each, name) for each in found) for name in names[1:]))
    wanted.out.parent.mkdir(parents=True, exist_ok=True)
    write_rows(wanted.out, [*found, total])


if __name__ == "__main__":
    main()
