"""A study: methods x learning rates x seeds x mitigations on equal budgets, with controls; resumable trial by trial."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from harness import Access, AssayError, Doc, ModelRef, Task
from harness.pipeline import default_split, open_tokenizer
from tuners.batches import Example
from tuners.data import check_overlap, find_tasks, read_docs, read_texts, task_examples, text_examples, without_overlap
from tuners.forgetting import break_even
from tuners.methods import find_method
from tuners.mix import mix
from tuners.scoring import Scorer, difference
from tuners.state import write_whole
from tuners.train import Progress, Recipe
from tuners.trial import Bench, Row, Trial, drops_row, finite, is_separable, run_trial


@dataclass(frozen=True, slots=True)
class Study:
    """What to compare. Every method gets the same number of trials and the same loss tokens.

    `rates` are factors of each method's own centre; `options` by method name override its defaults. The rate of the main
    comparison is chosen on the target's validation split alone; retention tasks never choose anything.
    """

    name: str
    targets: tuple[str, ...]
    retain: tuple[str, ...]
    methods: tuple[str, ...]
    loss_tokens: int
    rates: tuple[float, ...] = (1 / 3, 1.0, 3.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    mitigations: tuple[str, ...] = ()
    mitigated: tuple[str, ...] = ("full", "lora")
    """Methods that the mitigations are tried with, at the chosen rate."""
    shots: tuple[int, ...] = (1, 4)
    controls: bool = True
    batch: int = 8
    micro: int = 8
    examples: int = 2000
    """Most training rows of a target."""
    held: int = 200
    """Most rows on which the rate of a target is chosen."""
    limit: int | None = None
    """Most scored items of a task; None: all."""
    probes: int = 64
    text: str = ""
    """A file of neutral text, for KL and bits per byte away from any task."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Happening:
    """A trial that begins, for a progress bar."""

    number: int
    planned: int
    trial: Trial
    progress: Progress | None = None


def grid(study: Study) -> tuple[Trial, ...]:
    """Every method at every rate and seed: equal trials for each."""
    return tuple(
        Trial(target, name, find_method(name).lr * rate, seed, loss_tokens=study.loss_tokens, options=options_of(study, name))
        for target in study.targets
        for name in study.methods
        for rate in study.rates
        for seed in study.seeds
    )


def options_of(study: Study, method: str) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(study.options.get(method, {}).items()))


def followers(study: Study, chosen: Mapping[tuple[str, str], float]) -> tuple[Trial, ...]:
    """What runs at the chosen rates: mitigations and controls."""
    found: list[Trial] = []
    for (target, method), lr in chosen.items():
        for seed in study.seeds:
            plain = Trial(target, method, lr, seed, loss_tokens=study.loss_tokens, options=options_of(study, method))
            if method in study.mitigated:
                found += [replace(plain, mitigation=text, role="mitigation") for text in study.mitigations]
            if study.controls and method in ("lora", "full"):
                found.append(replace(plain, labels="random", role="random_labels"))
            if study.controls and method == "full":
                found.append(replace(plain, mitigation="lower_lr=0.1", role="tenth_rate"))
            if study.controls and seed == study.seeds[0] and find_method(method).family in ("additive", "reparameterization"):
                found.append(replace(plain, loss_tokens=0, role="untrained"))
    return tuple(found)


def choose_rates(rows: Iterable[Row]) -> dict[tuple[str, str], float]:
    """The rate with the best mean validation score on the target over seeds; a diverged trial counts as zero, ties go to the
    lower rate."""
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    for row in rows:
        if row["role"] == "grid":
            by_rate = found.setdefault((row["target"], row["method"]), {})
            by_rate.setdefault(row["lr"], []).append(row.get("validation_score") or 0.0)
    return {key: max(sorted(by_rate), key=lambda lr: mean(by_rate[lr])) for key, by_rate in found.items()}


def open_bench(study: Study, model: ModelRef, access: Access, scorer: Scorer) -> Bench:
    """Read all data and score the base, once. Raises AssayError for missing splits and for training rows that are scored."""
    tasks = {name: one(find_tasks([name], access), name) for name in (*study.targets, *study.retain)}
    tokenizer = open_tokenizer(model.path)
    scored = [(task, read_docs(task, scored_split(task, access), access)) for task in tasks.values()]
    training, validation, choosing = {}, {}, {}
    for name in study.targets:
        train, held, choosing[name] = split_target(study, tasks[name], access)
        check_overlap(tasks[name], train, scored)
        training[name] = train
        validation[name] = task_examples(tasks[name], held[: study.probes], tokenizer, model.positions)
    protected, probes = kept_skills(study, tasks, tokenizer, model.positions, access, scored)
    text = text_examples(read_texts(Path(study.text)), tokenizer, model.positions) if study.text else []
    before = scorer(model.path, None, tuple(tasks))
    recipe = Recipe(lr=0.0, micro=study.micro, checkpoint_every=50, precision=pick_precision())
    return Bench(
        model.path, model.positions, tokenizer, tasks, training, choosing, validation, protected, probes, study.retain, before, scorer,
        recipe, study.batch, text,
    )  # fmt: skip


def pick_precision() -> Literal["no", "bf16"]:
    """bf16 arithmetic on fp32 weights where the GPU has it."""
    import torch

    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"


def scored_split(task: Task, access: Access) -> str:
    """The split that the pipeline scores."""
    return task.split or default_split(task, access)


def split_target(study: Study, task: Task, access: Access) -> tuple[list[Doc], list[Doc], tuple[str, int]]:
    """Training docs, the docs on which the rate is chosen, and where the pipeline finds those.

    They are the validation split where that is not the scored one, else the first rows of the training split, which are then
    not trained on. Training rows that are scored by the task are left out too: repeats across splits are common.
    """
    train = read_docs(task, "train", access)
    tested = scored_split(task, access)
    apart = tested != "validation" and "validation" in task.rows.splits(access)
    held = read_docs(task, "validation", access)[: study.held] if apart else train[: study.held]
    kept = without_overlap(train if apart else train[study.held :], [*held, *read_docs(task, tested, access)])
    return kept[: study.examples], held, ("validation" if apart else "train", len(held))


def one(tasks: Sequence[Task], name: str) -> Task:
    if len(tasks) != 1:
        raise AssayError(f"{name!r} stands for {len(tasks)} tasks", where="study", do="name single tasks as targets and for retention")
    return tasks[0]


def kept_skills(
    study: Study, tasks: Mapping[str, Task], tokenizer: Any, positions: int, access: Access, scored: Sequence[tuple[Task, Any]]
) -> tuple[list[Example], list[Example]]:
    """Training examples of the retention tasks, to replay or protect in equal shares, and other ones to measure KL on.

    Items that are scored are left out, unless a task has no others (all hundred sums of two digits).
    """
    pools: dict[str, list[Example]] = {}
    probes: list[Example] = []
    for name in study.retain:
        task = tasks[name]
        if "train" not in task.rows.splits(access):
            continue
        asked = next(docs for other, docs in scored if other is task)
        docs = without_overlap(read_docs(task, "train", access), asked) or read_docs(task, "train", access)
        each = study.probes // max(1, len(study.retain))
        examples = task_examples(task, docs[: study.examples + each], tokenizer, positions)
        probes += examples[:each]
        pools[name] = examples[each:] or examples
    equal = mix(pools, 1e9, study.examples, 0) if pools else []
    return equal, probes


def run_study(
    study: Study, model: ModelRef, access: Access, scorer: Scorer, root: Path, report: Callable[[Happening], None] = lambda happening: None
) -> list[Row]:
    """Run what is not done yet; gives all rows, collected. Each trial is a folder with its row, written when it is done."""
    identity = {**asdict(study), "model": model.digest}
    write_study(root, identity)
    bench = open_bench(study, model, access, scorer)
    first = grid(study)
    rows = list(run_all(study, bench, first, root, 0, report))
    chosen = choose_rates(rows)
    rows += run_all(study, bench, followers(study, chosen), root, len(first), report)
    rows += base_rows(study, bench)
    return collect(study, rows, chosen)


def write_study(root: Path, identity: Mapping[str, Any]) -> None:
    """Pin what the folder is a study of. Raises AssayError where it holds another."""
    path, text = root / "study.json", json.dumps(identity, indent=1, sort_keys=True)
    if path.is_file() and json.loads(path.read_text()) != json.loads(text):
        raise AssayError("holds another study (other model, methods or budgets)", where=str(root), do="choose another --out, or remove it")
    write_whole(path, text.encode(), "nothing was started")


def run_all(
    study: Study, bench: Bench, trials: Sequence[Trial], root: Path, done: int, report: Callable[[Happening], None]
) -> Iterator[Row]:
    for number, trial in enumerate(trials, done + 1):
        folder = root / "trials" / trial_key(trial)
        path = folder / "row.json"
        if not path.is_file():
            happening = Happening(number, done + len(trials), trial)
            report(happening)
            facts = {name: value for name, value in asdict(trial).items() if name != "loss_tokens"}
            row = run_trial(bench, trial, folder, partial(relay, report, happening))
            whole = finite({"study": study.name, "trial": folder.name, **facts, "options": dict(trial.options), **row})
            write_whole(path, json.dumps(whole, indent=1).encode(), "the study goes on with this trial")
        yield json.loads(path.read_text())


def relay(report: Callable[[Happening], None], happening: Happening, progress: Progress) -> None:
    report(replace(happening, progress=progress))


def trial_key(trial: Trial) -> str:
    """A readable name with a hash: equal trials share a folder."""
    digest = hashlib.sha256(json.dumps(asdict(trial), sort_keys=True).encode()).hexdigest()[:12]
    return f"{trial.method.replace(':', '-')}-{trial.seed}-{digest}"


def base_rows(study: Study, bench: Bench) -> Iterator[Row]:
    """The untuned base, and the base with k examples in its prompt."""
    for target in study.targets:
        task = bench.tasks[target].full_name
        before = bench.before[task]
        length = mean(len(example.ids) for example in bench.validation[target])
        prompt = mean(example.loss_from for example in bench.validation[target])
        for shots in (0, *study.shots):
            after = bench.before if not shots else bench.scorer(bench.base, None, (target,), shots=shots)
            gain = difference(before, after[task])
            yield finite({
                "study": study.name, "trial": f"in_context-{shots}-{target}", "method": "in_context" if shots else "base",
                "family": "in_context" if shots else "none", "role": "in_context" if shots else "base", "target": target, "seed": 0,
                "lr": None, "mitigation": "none", "status": "done", "target_base": before.value, "target_score": after[task].value,
                "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high, "average_drop": 0.0, "kl_base": 0.0, "kl_target": 0.0,
                "trainable_parameters": 0, "saved_bytes": 0, "loss_tokens": 0, "shots": shots, "context_tokens": prompt + shots * length,
                "run_id": after[task].run, "route": "base", **({} if shots else drops_row(bench.before, {}))
            })  # fmt: skip


def collect(study: Study, rows: Sequence[Row], chosen: Mapping[tuple[str, str], float]) -> list[Row]:
    """All rows with what needs the others: the chosen rate, gain over the best in-context row, break-even queries."""
    prompts = {row["target"]: row["context_tokens"] for row in rows if row["role"] == "base"}
    best: dict[str, Row] = {}
    for row in rows:
        if row["role"] == "in_context" and row["target_score"] > best.get(row["target"], {"target_score": -1.0})["target_score"]:
            best[row["target"]] = row
    found = []
    for row in rows:
        icl = best.get(row["target"])
        whole = {**row, "task": row["target"], "selected": chosen.get((row["target"], row["method"])) == row["lr"] or row["lr"] is None}
        whole.setdefault("context_tokens", prompts[row["target"]] + (row.get("virtual_tokens") or 0))
        if is_separable(row) and row.get("average_drop") is not None:
            whole["detached_drop"] = 0.0
        if icl and row.get("target_score") is not None:
            whole["gain_over_in_context"] = row["target_score"] - icl["target_score"]
            if row.get("processed_tokens"):
                whole["break_even"] = break_even(row["processed_tokens"], icl["context_tokens"], whole["context_tokens"])
        found.append(finite(whole))
    return found


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """One Parquet file, a row per trial; nested facts as JSON text."""
    import pyarrow
    import pyarrow.parquet

    names = list(dict.fromkeys(name for row in rows for name in row))
    flat = [{n: json.dumps(v) if isinstance(v := row.get(n), dict | list) else v for n in names} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(flat), path, compression="zstd")
