"""The suite `core` on real data, with lm-eval itself and with assay's own tasks, as a table:

    ASSAY_DATA=... python -m tests.bench.core_tasks MODEL --rows rows.jsonl [TASK ...] [--items N] [--write results/checks/CORE.md]

Rows of several models in one file become one table each.

With few-shot examples both take the first rows of the split that the task draws them from: lm-eval would draw others for each item.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from assay import Completion
from assay.harness.files.places import Surroundings, surroundings
from assay.harness.run.evaluate import evaluate
from assay.harness.run.prepare import load_task
from assay.harness.store import Run, read_run
from assay.harness.store.plan import Plan
from assay.tasks.code import LM_EVAL as HUMANEVAL
from tests.bench.lm_eval_tasks import random_model
from tests.tasks.lm_eval_peer import Setting, compare, largest_difference, open_peer, ours, texts_differ, theirs


@dataclass(frozen=True)
class Pair:
    """A task of ours and lm-eval's; `metrics`: lm-eval's name of each of our metrics. `made`: rows of our own, for data not at hand."""

    ours: str
    theirs: str
    metrics: Mapping[str, str]
    limit: int = 50
    shots: int = 0
    made: bool = False

    @property
    def label(self) -> str:
        return f"{self.ours}{f', {self.shots} shots' if self.shots else ''}"


NORMED = {"accuracy_chars": "acc_norm", "accuracy": "acc"}
ACC = {"accuracy": "acc"}
GSM8K = {"strict_match": "exact_match,strict-match", "flexible_match": "exact_match,flexible-extract"}
PAIRS = (
    Pair("arc_easy", "arc_easy", NORMED),
    Pair("arc_easy", "arc_easy", NORMED, 20, 3),
    Pair("arc_challenge", "arc_challenge", NORMED),
    Pair("arc_challenge", "arc_challenge", NORMED, 10, 25),
    Pair("hellaswag", "hellaswag", NORMED),
    Pair("hellaswag", "hellaswag", NORMED, 10, 5),
    Pair("piqa", "piqa", NORMED, made=True),
    Pair("piqa", "piqa", NORMED, 20, 2, made=True),
    Pair("winogrande", "winogrande", ACC, made=True),
    Pair("winogrande", "winogrande", ACC, 20, 2, made=True),
    Pair("openbookqa", "openbookqa", NORMED),
    Pair("openbookqa", "openbookqa", NORMED, 20, 3),
    Pair("boolq", "boolq", ACC, 30),
    Pair("truthfulqa_mc1", "truthfulqa_mc1", ACC, 20),
    Pair("truthfulqa_mc2", "truthfulqa_mc2", {"correct_probability": "acc"}, 20),
    Pair("lambada_openai", "lambada_openai", {"accuracy": "acc", "perplexity": "perplexity"}, made=True),
    Pair("gsm8k", "gsm8k", GSM8K, 4),
    Pair("gsm8k", "gsm8k", GSM8K, 4, 5),
    Pair("mmlu/anatomy", "mmlu_anatomy", ACC),
    Pair("mmlu/anatomy", "mmlu_anatomy", ACC, 20, 5),
    Pair("mmlu/professional_law", "mmlu_professional_law", ACC, 20),
    Pair("mmlu_pro/biology", "mmlu_pro_biology", {"exact_match": "exact_match,custom-extract"}, 4, 2, made=True),
    Pair("math_500", "hendrycks_math500", {"exact_match": "exact_match"}, 5),
)
RUN = (
    Pair("humaneval", "humaneval", {"pass@1": "pass@1,create_test"}, 4),
    Pair("ifeval", "ifeval", {}, 12, made=True),
    Pair("gpqa_diamond", "gpqa_diamond_cot_zeroshot", {}, 4, made=True),
)
"""Compared on a model only. lm-eval runs HumanEval's programs through `evaluate`, which finds the published metric code_eval in a folder of
that name in the working directory; IFEval needs langdetect, immutabledict and NLTK's punkt_tab. IFEval and GPQA are lm-eval's here too."""
HEAD = """# The suite `core` in assay, against lm-eval

The same model (fp32 on a CPU), the same items (the first of each task), the same few-shot examples (the first rows: lm-eval
would draw others for each item). "lm-eval" is `simple_evaluate` of lm-eval {version} with its transformers model; "assay" is
`assay run --tasks NAME --engine hf` with assay's own tasks. `differ`: items whose value of the metric differs; `nats`: the largest
difference of a log-likelihood of an item; `texts`: generated texts that differ. Rows marked * use rows of our own in the data set's
form: all of LAMBADA's, MMLU-Pro's, IFEval's and GPQA's, the few-shot examples of PIQA and WinoGrande. Tokens are those that went
through the model. IFEval and GPQA run through lm-eval's own task on both sides; HumanEval's programs run in assay's sandbox, and for
lm-eval through the published metric code_eval. What `nats` shows is the rounding of fp32: lm-eval computes every choice whole and
alone, assay the shared prompt once; a perplexity shows it in its last digits. ({machine}, {cores} cores.) The prompts, choices,
decoding and scores of 20 items of each other row are compared without a model by `pytest tests/tasks/test_core_peer.py`.

Made by `python -m tests.bench.core_tasks MODEL --rows rows.jsonl --write results/checks/CORE.md`.
"""
TABLE = """
## {model}

| task | items | metric | lm-eval | assay | differ | nats | texts | tokens lm-eval | tokens assay |
|---|---:|---|---:|---:|---:|---:|---:|---:|---:|
"""
FIRST = """from dataclasses import replace
from assay import Access
from assay.harness.run.selection import select
TASK, = (replace(task, shots=replace(task.shots, order="first")) for task in select([{name!r}], Access()).tasks)
"""
PROGRAMS = "programs: published solutions, whole and cut, without a model"
NAMES = ("Anna", "Ben", "Cleo", "Dev", "Ella", "Finn", "Gita", "Hugo", "Ida", "Jon")
INSTRUCTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("Use no commas and at least 3 words.", "punctuation:no_comma", {}),
    ("Use at most 500 words.", "length_constraints:number_words", {"relation": "less than", "num_words": 500}),
    ("Use fewer than 3 sentences.", "length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3}),
    ("Write all in lowercase English.", "change_case:english_lowercase", {}),
    ("Give exactly 2 points, each after * .", "detectable_format:number_bullet_lists", {"num_bullets": 2}),
    ("Use the word house.", "keywords:existence", {"keywords": ["house"]}),
    ("Do not use the word house.", "keywords:forbidden_words", {"forbidden_words": ["house"]}),
    ("End with: That is all.", "startend:end_checker", {"end_phrase": "That is all."}),
    ("Put all of it in double quotes.", "startend:quotation", {}),
    ("Answer as JSON.", "detectable_format:json_format", {}),
    ("Use the letter e at least 5 times.", "keywords:letter_frequency", {"let_relation": "at least", "letter": "e", "let_frequency": 5}),
    ("Write in German.", "language:response_language", {"language": "de"}),
)
"""What IFEval's rows say: the text, the published verifier's name and its arguments."""


def made_data(home: Path) -> None:
    """Rows of our own in the forms of LAMBADA, MMLU-Pro, IFEval and GPQA, and train splits for the real items of PIQA and WinoGrande."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    things = ("cat", "lamp", "door", "well-known song", "letter", "bicycle!")
    texts = [
        f'{name} had lost a {thing}, and nobody in the house had seen it. "Where is it?" asked {name}{gap}and went to look for the {thing}'
        for name in NAMES
        for thing, gap in zip(things, (" ", "  ", ",\n", " ", " \n ", " "), strict=True)
    ]
    questions = [
        {
            "question_id": number,
            "question": f"How many eggs are in {number + 2} nests of two eggs?",
            "options": [str(2 * (number + 2) + step) for step in range(-1, 3 + number % 5)],
            "answer": "B",
            "answer_index": 1,
            "cot_content": "" if number < 40 else f"A: Let's think step by step. {number + 2} times two is twice that. The answer is (B).",
            "category": "biology" if number % 2 else "law",
            "src": "own",
        }
        for number in range(50)
    ]
    asked = [
        {"key": number, "prompt": f"Write about a {things[number % 6]}. {text}", "instruction_id_list": [name], "kwargs": [given]}
        for number, (text, name, given) in enumerate(INSTRUCTIONS)
    ]
    asked[0]["instruction_id_list"] += ["length_constraints:number_words"]  # type: ignore[operator]
    asked[0]["kwargs"] += [{"relation": "at least", "num_words": 3}]  # type: ignore[operator]
    sums = [
        {"Question": f"What is {n} and {n}?", "Correct Answer": f"{2 * n}", **{f"Incorrect Answer {k}": f"{2 * n + k}" for k in (1, 2, 3)}}
        for n in range(1, 11)
    ]
    pieces = [
        {"goal": f"Dry {name}'s shoe.", "sol1": "Use newspaper.", "sol2": "Use snow.", "label": n % 2} for n, name in enumerate(NAMES)
    ]
    gaps = [
        {"sentence": f"The mug broke {name}'s shelf as the _ was heavy.", "option1": "mug", "option2": "shelf", "answer": str(1 + n % 2)}
        for n, name in enumerate(NAMES)
    ]
    for path, rows in {
        "ybisk__piqa/plain_text/train.parquet": pieces,
        "allenai__winogrande/winogrande_xl/train.parquet": gaps,
        "EleutherAI__lambada_openai/default/test.parquet": [{"text": text} for text in texts],
        "google__IFEval/default/train.parquet": asked,
        "Idavidrein__gpqa/gpqa_diamond/train.parquet": sums,
        "TIGER-Lab__MMLU-Pro/default/test.parquet": questions[:40],
        "TIGER-Lab__MMLU-Pro/default/validation.parquet": questions[40:],
    }.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), home / path)
    real = surroundings().data
    for folder in ("ybisk__piqa/plain_text", "allenai__winogrande/winogrande_xl"):
        if real is not None and (real / folder).is_dir():
            (home / folder / "validation.parquet").symlink_to(real / folder / "validation.parquet")


@contextmanager
def first_examples() -> Iterator[None]:
    """lm-eval takes the first rows as few-shot examples."""
    from lm_eval.api import samplers

    kept = dict(samplers.SAMPLER_REGISTRY)
    samplers.SAMPLER_REGISTRY["default"] = samplers.FirstNSampler
    try:
        yield
    finally:
        samplers.SAMPLER_REGISTRY.update(kept)


def native(model: Path, pair: Pair, place: Surroundings, folder: Path) -> Run:
    """assay's run of its own task."""
    (folder / "first.py").write_text(FIRST.format(name=pair.ours))
    plan = Plan(
        model=str(model),
        tasks=(str(folder / "first.py"),),
        shots=pair.shots,
        limit=pair.limit,
        limit_order="first",
        engine="hf",
        dtype="float32",
        device="cpu",
        allow_partial=True,
    )
    return read_run(evaluate(plan, place))


def rows_of(model: Path, peer: Any, pair: Pair) -> list[dict[str, Any]]:
    """One row per metric. Items correspond by their order in the data."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = replace(surroundings(), results=folder / "results")
        if pair.made:
            made_data(folder / "data")
            place = replace(place, data=folder / "data")
        if not pair.metrics:
            return [{"model": model.name, **row} for row in library_rows(model, peer, pair, place)]
        run = native(model, pair, place, folder)
        with first_examples():
            found, _, tokens = theirs(peer, [pair.theirs], place, Setting(pair.limit, pair.shots))
        return [{"model": model.name, **row_of(pair, metric, name, found, run, tokens)} for metric, name in pair.metrics.items()]


def library_rows(model: Path, peer: Any, pair: Pair, place: Surroundings) -> list[dict[str, Any]]:
    """The rows of a task that runs through lm-eval on both sides."""
    setting = Setting(pair.limit)
    run, _ = ours(model, [pair.theirs], place, setting)
    found, _, tokens = theirs(peer, [pair.theirs], place, setting)
    told = {"label": pair.label + "*" * pair.made, "tokens": tokens, "computed": run.summary()["tokens"]["computed"]}
    return [{**told, **asdict(row)} for row in compare(found, run)]


def program_rows() -> list[dict[str, Any]]:
    """HumanEval's published solutions, whole, without their last line and cut in half, scored by lm-eval and by assay."""
    from lm_eval.tasks.humaneval.utils import build_predictions, pass_at_k

    rows = load_task(HUMANEVAL, Plan(model="", tasks=(HUMANEVAL.full_name,)), surroundings().access()).docs
    values = []
    for doc in rows:
        text = doc.references[0]
        for program in (text, text.rstrip("\n").rpartition("\n")[0], text[: len(text) // 2]):
            one = pass_at_k([str(doc.meta["test"])], build_predictions([[program]], [{"prompt": doc.prompt}]), [1])["pass@1"]
            values.append((float(one), HUMANEVAL.metrics[0].measure(doc, Completion(program))[0]))
    mean = [sum(each) / len(values) for each in zip(*values, strict=True)]
    told = {"model": PROGRAMS, "label": "humaneval", "items": len(values), "metric": "pass@1 (pass@1,create_test)"}
    differ = sum(one != two for one, two in values)
    return [{**told, "theirs": mean[0], "ours": mean[1], "differ": differ, "nats": 0.0, "texts": 0, "tokens": 0, "computed": 0}]


def row_of(pair: Pair, metric: str, name: str, found: Mapping[str, Any], run: Run, tokens: int) -> dict[str, Any]:
    base, _, chosen = name.partition(",")
    task = run.manifest["tasks"][0]["name"]
    stats = run.stats()[task, metric]
    values = dict(zip(stats.item_ids, stats.stats[:, 0].tolist(), strict=True))
    records = {record.item: record for record in run.records()}
    items = [item.id for item in run.items_by_task()[task]]
    samples = [each for each in found["samples"][pair.theirs] if each["filter"] == (chosen or "none")]
    assert len(items) == len(samples) == len({each["doc_id"] for each in samples})
    pairs = list(zip(items, sorted(samples, key=lambda each: each["doc_id"]), strict=True))
    return {
        "label": pair.label + "*" * pair.made,
        "items": len(items),
        "metric": metric if metric == name else f"{metric} ({name})",
        "theirs": float(found["results"][pair.theirs][f"{base},{chosen or 'none'}"]),
        "ours": next(each["value"] for each in run.summary()["results"] if each["metric"] == metric),
        "differ": sum(abs(abs(values[item]) - abs(float(each[base]))) > 1e-4 for item, each in pairs),
        "nats": max(largest_difference(each["resps"], records[item].output) for item, each in pairs),
        "texts": sum(texts_differ(each["resps"], records[item].output) for item, each in pairs),
        "tokens": tokens,
        "computed": run.summary()["tokens"]["computed"],
    }


def line(row: Mapping[str, Any]) -> str:
    numbers = (f"{row['theirs']:.6g}", f"{row['ours']:.6g}", str(row["differ"]), f"{row['nats']:.1e}", str(row["texts"]))
    cells = (row["label"], str(row["items"]), row["metric"], *numbers, f"{row['tokens']:,}", f"{row['computed']:,}")
    return "| " + " | ".join(cells) + " |\n"


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables of all models, in the order in which their first rows were measured; the tasks in the order of `PAIRS` and `RUN`."""
    order = [pair.label for pair in (*PAIRS, *RUN)]
    head = HEAD.format(version=metadata.version("lm_eval"), cores=os.cpu_count(), machine=platform.machine())
    return head + "".join(
        table(model, sorted((row for row in rows if row["model"] == model), key=lambda row: order.index(row["label"].rstrip("*"))))
        for model in dict.fromkeys(row["model"] for row in rows)
    )


def table(model: str, rows: Sequence[Mapping[str, Any]]) -> str:
    equal = sum(
        abs(row["theirs"] - row["ours"]) <= 1e-5 * max(1.0, abs(row["theirs"])) and not row["differ"] + row["texts"] for row in rows
    )
    items = sum({row["label"]: row["items"] for row in rows}.values())
    return f"{TABLE.format(model=model)}{''.join(map(line, rows))}\n{items} items, {len(rows)} values: {equal} are equal.\n"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a folder, `random` (small, the built-in model's tokenizer) or `programs`")
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--items", type=int, default=50, help="at most so many items of each task")
    parser.add_argument("--write", type=Path)
    given = parser.parse_intermixed_args(arguments)
    if str(given.model) == "programs":
        with given.rows.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in program_rows()))
        return
    model = random_model(given.rows.parent) if str(given.model) == "random" else given.model
    known = [json.loads(text) for text in given.rows.read_text().splitlines()] if given.rows.is_file() else []
    done = {row["label"].rstrip("*") for row in known if row["model"] == model.name}
    chosen = [pair for pair in (*PAIRS, *RUN) if not given.tasks or pair.ours in given.tasks]
    wanted = [replace(pair, limit=min(pair.limit, given.items)) for pair in chosen if pair.label not in done]
    peer = open_peer(model) if wanted else None
    for pair in wanted:
        rows = rows_of(model, peer, pair)
        known += rows
        with given.rows.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        print("".join(map(line, rows)), end="", flush=True)
    if given.write:
        given.write.write_text(page(known))


if __name__ == "__main__":
    main(sys.argv[1:])
