"""One trial: train, save, serve what was saved, score before and after, and write one row."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import AssayError, Doc, Task
from harness.pipeline import Tokenizer
from tuners import bottleneck, selection
from tuners.batches import Example, Step, plan_steps
from tuners.data import longest_scored, task_examples
from tuners.forgetting import average_drop_interval, bits_per_byte, measurable, retention, significant_drops
from tuners.loss import kl_of, largest_difference, log_probabilities, loss_of
from tuners.memory import peak_memory
from tuners.method import Method, Module, Trainable
from tuners.methods import find_method
from tuners.mitigation import Mitigation, extras_of, interpolate, is_plain_lora, parse_mitigation, scale_lora
from tuners.mix import mix
from tuners.peft_method import rehearse
from tuners.saved import attach, saved_bytes
from tuners.scoring import Score, Scorer, difference
from tuners.train import Progress, Recipe, Trained, check_recipe, train

BESIDE = ("tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja", "added_tokens.json")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """One training run of a study. `lr` is absolute; `labels` is "true" or "random" (a control); `role` says why it is run."""

    target: str
    method: str
    lr: float
    seed: int
    mitigation: str = "none"
    role: str = "grid"
    labels: str = "true"
    loss_tokens: int = 0
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Bench:
    """What all trials of a study share. `protected` and `probes`: training and validation examples of the retention tasks."""

    base: Path
    positions: int
    tokenizer: Tokenizer
    tasks: Mapping[str, Task]
    training: Mapping[str, Sequence[Doc]]
    choosing: Mapping[str, tuple[str, int]]
    """By target the split on which rates are chosen, and how many of its first rows; none of them is trained on or scored."""
    validation: Mapping[str, Sequence[Example]]
    protected: Sequence[Example]
    probes: Sequence[Example]
    retain: tuple[str, ...]
    before: Mapping[str, Score]
    scorer: Scorer
    recipe: Recipe
    batch: int = 8
    text: Sequence[Example] = ()
    bytes_per_token: float = 0.0
    """UTF-8 bytes of the text that a token with loss stands for."""
    chooses: tuple[str, ...] = ("grid",)
    """Roles of the trials that the rate is chosen from: only they are scored on validation."""
    retain_limit: int | None = None
    keep_models: bool = True
    chat: bool = False
    spare: Sequence[Example] = ()
    """Text that nothing is measured on: what is replayed and protected where no retention task has training examples."""
    scored: Mapping[str, Sequence[Doc]] = field(default_factory=dict)
    """By full name the items that the pipeline scores."""
    dropped: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By target the training rows that were left out, because they are scored or chosen on."""
    references: dict[str, Any] = field(default_factory=dict)
    """The base's log-probabilities on the probes, once computed; the only part that changes."""


def open_base(path: Path) -> Module:
    """The base model in fp32, on the GPU where there is one: in bf16 weights the small steps of full tuning would round away."""
    import torch
    from transformers import AutoModelForCausalLM, logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        str(path), dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    return model.to("cuda") if torch.cuda.is_available() else model


def run_trial(bench: Bench, trial: Trial, folder: Path, report: Callable[[Progress], None] = lambda progress: None) -> Row:
    """Do one trial; gives its row. A run that diverges, or a method or mitigation that this model refuses, is a row with that
    status; faults of the disk or of scoring are raised, and the trial is done again when the study goes on."""
    began = time.monotonic()
    method, mitigation = find_method(trial.method), parse_mitigation(trial.mitigation)
    recipe = replace(bench.recipe, lr=trial.lr * mitigation.lower_lr, seed=trial.seed)
    try:
        steps = plan_trial(bench, trial, mitigation)
        trainable = make_ready(bench, trial, mitigation, steps)
        extras = extras_of(mitigation, trainable, bench.validation[trial.target], to_keep(bench, mitigation), seed=trial.seed)
    except AssayError as error:
        return {"family": method.family, "status": "refused", "reason": str(error)}
    done = train(trainable, steps, recipe, extras, folder / "training", report) if steps else untrained()
    row = costs(method, trainable, done)
    if done.status == "diverged":
        return {**row, "status": "diverged", "seconds": time.monotonic() - began}
    served = save_or_say(bench, trainable, mitigation, folder)
    row |= {"saved_bytes": saved_bytes(folder / "result")}
    row |= closeness(bench, trial, trainable, served, mitigation)
    row |= scores(bench, trial, served)
    if served[1] is None and (served[0] != folder / "result" or not bench.keep_models):
        shutil.rmtree(served[0])
    shutil.rmtree(folder / "training", ignore_errors=True)
    return {**row, "status": done.status, "seconds": time.monotonic() - began}


def plan_trial(bench: Bench, trial: Trial, mitigation: Mitigation) -> tuple[Step, ...]:
    """The steps; equal for every method of equal target, seed, labels and mitigation."""
    if not trial.loss_tokens:
        return ()
    task = bench.tasks[trial.target]
    docs = bench.training[trial.target]
    if trial.labels == "random":
        docs = random_labels(docs, trial.seed)
    examples = task_examples(task, docs, bench.tokenizer, bench.positions, bench.chat)
    if mitigation.multi_task:
        others = {
            name: task_examples(bench.tasks[name], rows, bench.tokenizer, bench.positions, bench.chat)
            for name, rows in bench.training.items()
        }
        examples = mix(others | {trial.target: examples}, mitigation.multi_task, sum(map(len, others.values())), trial.seed)
    return plan_steps(
        examples, loss_tokens=trial.loss_tokens, batch=bench.batch, seed=trial.seed, replay=to_keep(bench, mitigation),
        ratio=mitigation.replay,
    )  # fmt: skip


def to_keep(bench: Bench, mitigation: Mitigation) -> Sequence[Example]:
    """What is replayed and protected: examples of the retention tasks, else text, which early stopping does not look at."""
    return bench.protected or (bench.spare if mitigation.replay or mitigation.ewc else ())


def make_ready(bench: Bench, trial: Trial, mitigation: Mitigation, steps: Sequence[Step]) -> Trainable:
    """The base as the trial's method changes it. Raises AssayError for what method, mitigation and model cannot do together."""
    method = find_method(trial.method)
    trainable = method.begin(open_base(bench.base), seed=trial.seed, steps=len(steps), options=dict(trial.options))
    if mitigation.wise_ft < 1 and trainable.merged is None:
        raise AssayError("cannot be interpolated: it does not fold into the weights", where=method.name, do="use another mitigation")
    check_recipe(trainable, bench.recipe)
    check_context(bench, virtual_tokens(trainable), steps)
    if method.merges is None:  # a configuration of peft that nobody here has tried
        rehearse(trainable, next(iter(bench.validation.values()))[0], merging=mitigation.wise_ft < 1)
    return trainable


def virtual_tokens(trainable: Trainable) -> int:
    """How many tokens a method puts before every prompt."""
    return int(getattr(getattr(trainable.model, "active_peft_config", None), "num_virtual_tokens", None) or 0)


def check_context(bench: Bench, virtual: int, steps: Sequence[Step]) -> None:
    """Raises AssayError where virtual tokens leave too little of the model's context for what is trained on, measured and scored."""
    if not virtual:
        return
    if "longest" not in bench.references:
        measured = [*bench.probes, *bench.text, *(example for examples in bench.validation.values() for example in examples)]
        scored = (longest_scored(task, bench.scored.get(task.full_name, ()), bench.tokenizer, bench.chat) for task in bench.tasks.values())
        bench.references["longest"] = max((*(len(example.ids) for example in measured), *scored), default=0)
    trained = (len(example.ids) for step in steps for example in (*step.target, *step.replay))
    longest = max((bench.references["longest"], *trained))
    if longest + virtual > bench.positions:
        raise AssayError(
            f"{virtual} virtual tokens and items of up to {longest} are more than the model's context of {bench.positions}",
            do="use fewer tokens or tasks with shorter prompts",
        )


def random_labels(docs: Sequence[Doc], seed: int) -> list[Doc]:
    """The same questions with answers that say nothing: a random choice, or another doc's reference. What is gained is format."""
    draw = random.Random(f"labels:{seed}")
    if all(doc.choices for doc in docs):
        return [replace(doc, gold=draw.randrange(len(doc.choices)), targets=()) for doc in docs]
    return [replace(doc, references=(draw.choice(docs).answer,)) for doc in docs]


def untrained() -> Trained:
    return Trained("done", 0, (), (), 0, 0, 0.0, peak_memory())


def costs(method: Method, trainable: Trainable, done: Trained) -> Row:
    """What the training itself took and gave."""
    return {
        "family": method.family,
        "route": method.route,
        "steps": done.steps,
        "loss_tokens": done.loss_tokens,
        "processed_tokens": done.processed_tokens,
        "train_seconds": done.seconds,
        "tokens_per_second": done.processed_tokens / done.seconds if done.seconds else None,
        "peak_memory": done.peak_memory,
        "trainable_parameters": trainable.count,
        "first_loss": done.losses[0] if done.losses else None,
        "final_loss": sum(done.losses[-5:]) / len(done.losses[-5:]) if done.losses else None,
        "virtual_tokens": virtual_tokens(trainable),
    }


def save_or_say(bench: Bench, trainable: Trainable, mitigation: Mitigation, folder: Path) -> tuple[Path, Path | None]:
    """`save_served`, with a disk that is full told in one clear line; safetensors has an error of its own for it."""
    from safetensors import SafetensorError

    try:
        return save_served(bench, trainable, mitigation, folder / "result")
    except (OSError, SafetensorError) as error:
        raise AssayError(
            f"the result cannot be written: {error}", where=str(folder), do="make room; the study goes on with this trial"
        ) from None


def save_served(bench: Bench, trainable: Trainable, mitigation: Mitigation, result: Path) -> tuple[Path, Path | None]:
    """Save what was learned, and give the model directory and adapter by which engines load it.

    Interpolation scales a LoRA; any other method that folds into the weights becomes a model of its own.
    """
    shutil.rmtree(result, ignore_errors=True)
    trainable.save(result)
    config = result / "adapter_config.json"
    kind = json.loads(config.read_text())["peft_type"] if config.is_file() else None
    if mitigation.wise_ft < 1 and kind == "LORA" and is_plain_lora(result):
        scale_lora(result, mitigation.wise_ft)
        return bench.base, result
    if mitigation.wise_ft == 1 and kind not in (None, selection.KIND):
        return bench.base, result
    assert trainable.merged is not None, "refused before training"
    folder = result if kind is None else result.with_name("merged")
    merged = trainable.merged()
    if mitigation.wise_ft < 1:
        merged = interpolate(open_base(bench.base), merged, mitigation.wise_ft)
    merged.save_pretrained(str(folder))
    for pattern in BESIDE:
        for path in bench.base.glob(pattern):
            shutil.copy(path, folder / path.name)
    return folder, None


def open_served(served: tuple[Path, Path | None]) -> Module:
    """The served model in this process, from what is on disk."""
    model, adapter = served
    return open_base(model) if adapter is None else attach(open_base(model), adapter)


def closeness(bench: Bench, trial: Trial, trainable: Trainable, served: tuple[Path, Path | None], mitigation: Mitigation) -> Row:
    """Distance of what is served from the base, and from what was trained (`parity`, where nothing was interpolated).

    For a trial that only chooses the rate, on the neutral text alone.
    """
    model, target = open_served(served), bench.validation[trial.target]
    found: Row = {}
    only_text = trial.role == "rate"
    for name, examples in (("kl_target", target), ("kl_base", bench.probes), ("kl_text", bench.text))[2 * only_text :]:
        if examples:
            base = reference(bench, name if name != "kl_target" else f"kl_target of {trial.target}", examples)
            logs = log_probabilities(model, examples)
            found[name] = kl_of(base, logs)
            if name == "kl_text":
                nats = loss_of(logs, examples) - loss_of(base, examples)
                found |= {"delta_loss_text": nats, "delta_bits_per_byte": bits_per_byte(nats, 1) / bench.bytes_per_token}
    if mitigation.wise_ft == 1 and not only_text:
        found["parity"] = largest_difference(trainable.model, model, target[:8])
    return found


def reference(bench: Bench, name: str, examples: Sequence[Example]) -> Any:
    """The base's log-probabilities, computed once for all trials. Without any adapter: the base is loaded afresh."""
    if name not in bench.references:
        bench.references[name] = log_probabilities(open_base(bench.base), examples)
    return bench.references[name]


def scores(bench: Bench, trial: Trial, served: tuple[Path, Path | None]) -> Row:
    """Gain on the target's test split, its validation score for choosing rates, and drops on the retention tasks.

    A trial that only chooses the rate never sees the test split.
    """
    target = bench.tasks[trial.target].full_name
    row: Row = {"target_base": bench.before[target].value}
    if trial.role in bench.chooses:
        split, held = bench.choosing[trial.target]
        row["validation_score"] = bench.scorer(*served, (trial.target,), split=split, limit=held)[target].value
    if trial.role == "rate":
        return row
    after = bench.scorer(*served, (trial.target,))
    gain = difference(bench.before[target], after[target])
    row |= {
        "target_score": after[target].value,
        "gain": gain.value,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "items": len(after[target].items),
        "run_id": after[target].run,
    }
    kept = bench.scorer(*served, bench.retain, limit=bench.retain_limit) if bench.retain else {}
    return row | drops_row(bench.before, kept)


def drops_row(before: Mapping[str, Score], after: Mapping[str, Score]) -> Row:
    """Forgetting over the tasks on which the base is clearly above chance; the others are named, never counted as zero."""
    usable = {name: score for name, score in after.items() if measurable(before[name].value, before[name].chance, before[name].error)}
    row: Row = {"not_measurable": sorted(set(after) - set(usable))}
    if not usable:
        return row
    found = {name: difference(before[name], score) for name, score in usable.items()}
    mean, low, high = average_drop_interval(found)
    worst = min(found, key=lambda name: found[name].value)
    return row | {
        "average_drop": mean,
        "average_drop_low": low,
        "average_drop_high": high,
        "worst_task": worst,
        "worst_drop": -found[worst].value,
        "significant_drops": len(significant_drops(found)),
        "drops": {name: -value.value for name, value in found.items()},
        "retention": {name: retention(before[name].value, score.value, before[name].chance) for name, score in usable.items()},
    }


def finite(row: Row) -> Row:
    """A row as JSON can hold it: numbers that are none become null."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}


def is_separable(row: Mapping[str, Any]) -> bool:
    """Whether the base stays as it was beside the adapter: detached, nothing is forgotten."""
    return row.get("route") in ("lora", "prompt", "transformers", "base") or row.get("family") in ("additive", "reparameterization")


KINDS = (selection.KIND, bottleneck.KIND)
"""Adapter formats of our own."""
