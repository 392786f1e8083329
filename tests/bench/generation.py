"""Generation with transformers: our packed way beside plain `generate` with left padding, on prompts of GSM8K.

    ASSAY_DATA=DATA OMP_NUM_THREADS=2 python -m tests.bench.generation [--items 16] [--rounds 3] [--cells '5-shot|0-shot']

One process, one model in memory (fp32), the same ids; every round begins with another side, and a short round before them is not counted.
The plain side sorts prompts by length, as lm-eval does. Seconds are CPU seconds of all threads. Texts must be equal, item by item: else the
exit code is 1. Writes results/speed/generation.csv.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from assay import Plan
from assay.harness.engines import Settings
from assay.harness.engines.hf.engine import HfEngine, open_engine
from assay.harness.engines.request import GenReply, GenRequest
from assay.harness.files.places import surroundings
from assay.harness.model.find import find_model
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.run.prepare import prepare_task
from assay.harness.run.selection import select
from tests.bench.csv_file import write_rows

OUT = Path(__file__).parents[2] / "results" / "speed" / "generation.csv"
MODEL, BATCHES = "builtin:smollm2-135m", (1, 4, 16)
CELLS = {
    "5-shot": (5, 48, False),
    "5-shot, others per item": (5, 48, True),
    "0-shot": (0, 48, False),
    "0-shot, short": (0, 4, False),
}
"""Examples in the prompt, most tokens of a text, and whether every item has examples of its own (seed), so that nothing is shared."""
Texts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """CPU seconds of a side, the median over the rounds; `times`: how many times ours they are, with the lowest and highest of a round."""

    cell: str
    side: str
    items: int
    seconds: float
    times: float
    low: float
    high: float
    equal: int
    """Items with the same text as ours."""


def requests_of(shots: int, tokens: int, own: bool, items: int) -> tuple[GenRequest, ...]:
    place = surroundings()
    tokenizer = open_tokenizer(find_model(MODEL, cache=place.cache, offline=True).path)
    task = select(("gsm8k",), place.access()).tasks[0]
    limits = [(1, seed) for seed in range(items)] if own else [(items, 0)]
    plans = [Plan(MODEL, ("gsm8k",), shots=shots, limit=limit, seed=seed, allow_partial=True) for limit, seed in limits]
    prepared = [item for plan in plans for item in prepare_task(task, plan, place.access(), tokenizer, 8192).items]
    asked = (each for item in prepared for each in item.requests)
    return tuple(GenRequest(each.prompt, tokens) for each in asked if isinstance(each, GenRequest))


def ours(engine: HfEngine, requests: Sequence[GenRequest]) -> Texts:
    replies = dict(engine.generate(requests))
    return tuple(reply.text if isinstance(reply := replies[index], GenReply) else reply.reason for index in range(len(requests)))


def padded(engine: HfEngine, requests: Sequence[GenRequest], batch: int) -> Texts:
    """The library's greedy `generate` on batches of neighbours in length, padded on the left."""
    import torch

    decoder, texts = engine.decoder(), [""] * len(requests)
    order = sorted(range(len(requests)), key=lambda index: -len(requests[index].prompt))
    for begin in range(0, len(order), batch):
        here = order[begin : begin + batch]
        prompts = [torch.as_tensor(requests[index].prompt) for index in here]
        ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True, padding_side="left")
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(each) for each in prompts], batch_first=True, padding_side="left")
        ends, most = sorted(decoder.stops), requests[here[0]].max_tokens
        with torch.inference_mode():
            found = engine.run.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=most, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
            )
        for index, row in zip(here, found[:, ids.shape[1] :].tolist(), strict=True):
            stop = next((place for place, token in enumerate(row) if token in decoder.stops), len(row) - 1)
            texts[index] = decoder.response(requests[index], tuple(row[: stop + 1]))
    return tuple(texts)


def compare(cell: str, engine: HfEngine, requests: Sequence[GenRequest], rounds: int) -> list[Row]:
    """Every side in every round, each round beginning with another."""
    sides: dict[str, Callable[[Sequence[GenRequest]], Texts]] = {"ours": lambda asked: ours(engine, asked)}
    sides |= {f"plain, batch {batch}": lambda asked, batch=batch: padded(engine, asked, batch) for batch in BATCHES}
    names, texts, spent = list(sides), {}, []
    for number in range(rounds + 1):
        took = {}
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began = time.process_time()
            texts[name] = sides[name](requests if number else requests[:2])
            took[name] = time.process_time() - began
        spent += [took] if number else []
    rows = []
    for name in names:
        times = sorted(round(took[name] / took["ours"], 2) for took in spent)
        same = sum(left == right for left, right in zip(texts[name], texts["ours"], strict=True))
        seconds = round(median(took[name] for took in spent), 2)
        rows.append(Row(cell, name, len(requests), seconds, round(median(times), 2), times[0], times[-1], same))
        print(*asdict(rows[-1]).values(), sep="\t", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", default="|".join(CELLS), help="names of cells, with | between them")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    place = surroundings()
    engine = open_engine(find_model(MODEL, cache=place.cache, offline=True), Settings(dtype="float32", device="cpu"))
    rows = []
    for cell in given.cells.split("|"):
        rows += compare(cell, engine, requests_of(*CELLS[cell], given.items), given.rounds)
    engine.close()
    write_rows(given.out, rows)
    raise SystemExit(any(row.equal < row.items for row in rows))


if __name__ == "__main__":
    main()
