"""What our engine adds to vLLM on a CPU: requests and tokens a second against plain `LLM.generate` with everything in one call.

    OMP_NUM_THREADS=1 python -m tests.bench.vllm_overhead [--requests 2000] [--texts 256] [--tokens 128] [--rounds 3]

A model of one layer of 64 units with random weights, so that Python is all that counts. Both sides use one vLLM, the same ids and an empty
prefix cache, in turn, after one round that is not counted; seconds are CPU seconds, which a busy machine changes less. With more
threads, those that wait for each other count too, and rounds differ by a factor of two. Writes results/speed/vllm_overhead.csv.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from assay.harness.engines import Settings
from assay.harness.engines.request import GenRequest, ScoreGroup
from assay.harness.engines.vllm_offline.engine import open_engine
from assay.harness.model.find import find_model
from tests.bench.csv_file import write_rows
from tests.bench.gpu import make_model

OUT = Path(__file__).parents[2] / "results" / "speed" / "vllm_overhead.csv"
VOCABULARY, SHARED, OWN = 49152, 256, 64
"""Ids of the model; tokens that a hundred neighbouring requests share, and tokens of each alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """The median over the rounds: `ours` and `plain` a second of CPU, and their ratio, with the lowest and the highest of a round."""

    what: str
    ours: float
    plain: float
    ratio: float
    low: float
    high: float


def prompts(count: int) -> list[tuple[int, ...]]:
    draw = random.Random(0)

    def ids(size: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, VOCABULARY) for _ in range(size))

    stems = [ids(SHARED) for _ in range(-(-count // 100))]
    return [stems[number // 100] + ids(OWN) for number in range(count)]


def seconds(llm: Any, work: Callable[[], Any]) -> float:
    """CPU seconds of `work` after emptying the prefix cache."""
    llm.reset_prefix_cache()
    began = time.process_time()
    work()
    return time.process_time() - began


def compare(what: str, units: int, llm: Any, sides: tuple[Callable[[], Any], Callable[[], Any]], rounds: int) -> Row:
    """Both sides in turn; ours first in every other round."""
    spent: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        first = number % 2
        took = {side: seconds(llm, sides[side]) for side in (first, 1 - first)}
        spent += [(took[0], took[1])] if number else []
    ours, plain = (median(each[side] for each in spent) for side in (0, 1))
    ratios = sorted(round(plain / ours, 3) for ours, plain in spent)
    row = Row(what, round(units / ours, 1), round(units / plain, 1), round(median(ratios), 3), ratios[0], ratios[-1])
    print(*asdict(row).values(), sep="\t", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = find_model(str(make_model("tiny", Path(folder) / "tiny", "cpu")), cache=Path(folder), offline=True)
        engine = open_engine(model, Settings(device="cpu"))
        from vllm import SamplingParams
        from vllm.inputs import tokens_input

        llm, contexts, choices = engine.llm, prompts(given.requests), (350, 378, 340, 422)
        score = SamplingParams(temperature=0, max_tokens=1, detokenize=False, logprob_token_ids=list(choices))
        text = SamplingParams(temperature=0, max_tokens=given.tokens, ignore_eos=True)
        groups = [ScoreGroup(context, tuple((choice,) for choice in choices)) for context in contexts]
        asked = [GenRequest(context, given.tokens, logprob=False) for context in prompts(given.texts)]
        inputs = [tokens_input(list(context)) for context in contexts]
        texts = [tokens_input(list(request.prompt)) for request in asked]
        rows = [
            compare(
                "scored requests",
                len(groups),
                llm,
                (lambda: list(engine.score(groups)), lambda: llm.generate(inputs, score, use_tqdm=False)),
                given.rounds,
            ),
            compare(
                "generated tokens",
                len(asked) * given.tokens,
                llm,
                (lambda: list(engine.generate(asked)), lambda: llm.generate(texts, text, use_tqdm=False)),
                given.rounds,
            ),
        ]
        engine.close()
    write_rows(given.out, rows)


if __name__ == "__main__":
    main()
