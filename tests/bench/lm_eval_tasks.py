"""Real tasks of lm-eval on real data, with lm-eval itself and as `lm-eval:NAME`, as a table:

    ASSAY_DATA=... python -m tests.bench.lm_eval_tasks MODEL --rows rows.jsonl [TASK ...] [--write results/checks/LM_EVAL.md]

Rows are kept as they are made, so that the table can be made in several calls.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from assay.harness.files.places import surroundings
from tests.tasks.lm_eval_peer import Compared, Setting, compare, open_peer, ours, theirs

FEW = Setting(limit=10)
TASKS: Mapping[str, Setting] = {
    **dict.fromkeys(("arc_easy", "arc_challenge", "openbookqa", "hellaswag", "copa", "boolq", "cb", "wic", "sglue_rte", "wsc"), FEW),
    **dict.fromkeys(("cola", "mrpc", "rte", "sst2", "wnli", "mnli", "truthfulqa_mc1", "truthfulqa_mc2"), FEW),
    **dict.fromkeys(("blimp_adjunct_island", "blimp_causative"), FEW),
    "mmlu_anatomy": replace(FEW, shots=5),
    "mmlu_stem": Setting(limit=2),
    "mmlu_continuation_anatomy": FEW,
    "multirc": Setting(limit=6),
    "gsm8k": Setting(limit=2, shots=2),
    "bbh_zeroshot_boolean_expressions": Setting(limit=4),
    "bbh_cot_fewshot_web_of_lies": Setting(limit=2),
    "truthfulqa_gen": Setting(limit=2),
    "arc_easy in chats": replace(FEW, chat=True, limit=6),
    "openbookqa in chats": replace(FEW, chat=True, limit=6, shots=2, system="Answer the question."),
    "bbh_zeroshot_boolean_expressions in chats": Setting(limit=3, chat=True),
}
"""By task: how many documents, few-shot examples, chats. What stands after the name says what is special."""
HEAD = """# lm-eval's tasks in assay, against lm-eval itself

The same model ({model}, see the script; fp32 on a CPU), the same documents (the first of each task, from the data in `$ASSAY_DATA`), the
same few-shot examples. "lm-eval" is `simple_evaluate` of lm-eval {version} with its transformers model, batches of one; "assay" is
`assay run --tasks lm-eval:NAME --engine hf`. `differ`: documents whose value of the metric differs (pairs and texts: in total only);
`nats`: the largest difference of a log-likelihood of a document; `texts`: generated texts that differ. Tokens are those that went through
the model. Seconds are of scoring, on a shared machine with {cores} cores ({machine}): a guide, not a measurement. lm-eval's
include building the prompts.

Made by `python -m tests.bench.lm_eval_tasks MODEL --rows rows.jsonl --write results/checks/LM_EVAL.md`.

| task | items | shots | metric | lm-eval | assay | differ | nats | texts | tokens lm-eval | tokens assay | s lm-eval | s assay |
|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
"""


def random_model(home: Path) -> Path:
    """A random model of 3 million parameters with the tokenizer and the chat template of the built-in model."""
    import torch
    import transformers

    source, folder = surroundings().cache / "models" / "smollm2-135m-instruct", home / "random-3M"
    folder.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.suffix != ".safetensors" and path.name != "config.json":
            shutil.copy(path, folder / path.name)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    given = {
        key: value for key, value in json.loads((source / "config.json").read_text()).items() if key not in ("head_dim", "architectures")
    }
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**given, **sizes, "initializer_range": 0.2, "dtype": "float32"})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def measure(model: Path, peer: Any, name: str, setting: Setting) -> list[dict[str, Any]]:
    """The rows of one task: one per metric."""
    task = name.split(" ")[0]
    with tempfile.TemporaryDirectory() as folder:
        place = replace(surroundings(), results=Path(folder))
        run, _ = ours(model, [task], place, setting)
        found, seconds, tokens = theirs(peer, [task], place, setting)
        shared = {
            "name": name,
            "shots": run.manifest["tasks"][0]["shots"],
            "tokens": tokens,
            "computed": run.summary()["tokens"]["computed"],
            "seconds": round(seconds, 1),
            "engine": run.summary()["seconds"]["engine"],
        }
        return [{**shared, **asdict(row)} for row in shown(compare(found, run))]


def shown(rows: Sequence[Compared]) -> list[Compared]:
    """All metrics of a task; of a group its means, with the differences of all of its members."""
    totals = [row for row in rows if row.group]
    members = [row for row in rows if not row.group]
    differ, texts = (sum(getattr(row, name) for row in members) for name in ("differ", "texts"))
    nats = max(row.nats for row in members)
    return [replace(total, differ=differ, texts=texts, nats=nats) for total in totals] or members


def line(row: Mapping[str, Any]) -> str:
    cells = [
        row["name"],
        str(row["items"]),
        str(row["shots"]),
        row["metric"].replace("|", "\\|"),
        f"{row['theirs']:.6g}",
        f"{row['ours']:.6g}",
        str(row["differ"]),
        f"{row['nats']:.1e}",
        str(row["texts"]),
        f"{row['tokens']:,}",
        f"{row['computed']:,}",
        f"{row['seconds']:.0f}",
        f"{row['engine']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def page(rows: Sequence[Mapping[str, Any]], model: str) -> str:
    names = list(dict.fromkeys(row["name"] for row in rows))
    equal = [
        row for row in rows if abs(row["theirs"] - row["ours"]) <= 1e-6 * max(1.0, abs(row["theirs"])) and not row["differ"] + row["texts"]
    ]
    head = HEAD.format(model=model, version=metadata.version("lm_eval"), cores=os.cpu_count(), machine=platform.machine())
    last = f"\n{len(names)} tasks and groups, {len(rows)} values: {len(equal)} are equal.\n"
    return head + "\n".join(map(line, rows)) + "\n" + last


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a model's folder, or `random` for a small one with the built-in model's tokenizer")
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--write", type=Path)
    given = parser.parse_intermixed_args(arguments)
    model = random_model(given.rows.parent) if str(given.model) == "random" else given.model
    read = [json.loads(text) for text in given.rows.read_text().splitlines()] if given.rows.is_file() else []
    known = list({(row["name"], row["metric"]): row for row in reversed(read)}.values())
    done = {row["name"] for row in known}
    wanted = [name for name in given.tasks or TASKS if name not in done]
    peer = open_peer(model) if wanted else None
    for name in wanted:
        try:
            rows = measure(model, peer, name, TASKS[name])
        except Exception as error:  # one task that cannot run leaves the others
            print(f"{name}: {type(error).__name__}: {error!s:.300}", file=sys.stderr, flush=True)
            continue
        known += rows
        with given.rows.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        print("\n".join(map(line, rows)), flush=True)
    if given.write:
        order = list(TASKS)
        given.write.write_text(page(sorted(known, key=lambda row: order.index(row["name"])), model.name))


if __name__ == "__main__":
    main(sys.argv[1:])
