"""Doing one trial: train, save, serve what was saved, score before and after, and give one row."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from assay import AssayError
from assay.harness.run.stages import cut_pairs
from assay.tuners.methods import find_method
from assay.tuners.methods.saved import attach, saved_bytes
from assay.tuners.study.forgetting import bits_per_byte
from assay.tuners.study.scoring import Heard, difference, drops_row, recovered, shots_name
from assay.tuners.study.trial import Bench, Row, Trial, make_ready, open_base, plan_trial, to_keep, virtual_tokens
from assay.tuners.training import selection
from assay.tuners.training.batches import Example
from assay.tuners.training.loss import kl_of, largest_difference, log_probabilities, loss_of
from assay.tuners.training.memory import peak_memory
from assay.tuners.training.method import Method, Module, Trainable
from assay.tuners.training.mitigation import Mitigation, extras_of, in_training, interpolate, is_plain_lora, parse_mitigation, scale_lora
from assay.tuners.training.train import Progress, Trained, train

BESIDE = ("tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja", "added_tokens.json")
Served = tuple[Path, Path | None]
"""Model directory and adapter, as engines load a result."""


def run_trial(
    bench: Bench, trial: Trial, folder: Path, report: Callable[[Progress], None] = lambda progress: None, plain: Path | None = None
) -> Row:
    """Do one trial; gives its row. A run that diverges, or a method or mitigation that this model refuses, is a row with that
    status; faults of the disk or of scoring are raised, and the trial is done again when the study goes on.

    `plain`: the folder of the same trial without interpolation; what it trained is used again where it is still there.
    """
    began = time.monotonic()
    method, mitigation = find_method(trial.method), parse_mitigation(trial.mitigation)
    row, trained = trained_before(plain) if mitigation.wise_ft < 1 and plain else None, None
    if row is not None and plain is not None:
        served = with_disk_told(folder, lambda: serve_again(bench, mitigation, plain / "result", folder / "result"))
    else:
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
            return {**row, "seconds": time.monotonic() - began}
        served, trained = save_or_say(bench, trainable, mitigation, folder), trainable.model
    row |= {"served": "own model" if served[1] is None else "adapter", "saved_bytes": saved_bytes(folder / "result")}
    row |= closeness(bench, trial, served, trained if mitigation.wise_ft == 1 else None)
    row |= scores(bench, trial, served, trained if mitigation.wise_ft == 1 else None)
    if served[1] is None and (served[0] != folder / "result" or not bench.keep_models):
        shutil.rmtree(served[0])
    shutil.rmtree(folder / "training", ignore_errors=True)
    return {**row, "seconds": time.monotonic() - began}


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
        "status": done.status,
    }


COSTS = (
    *("family", "route", "steps", "loss_tokens", "processed_tokens", "train_seconds", "tokens_per_second", "peak_memory"),
    *("trainable_parameters", "first_loss", "final_loss", "virtual_tokens", "status"),
)
"""The columns of `costs`."""


def uninterpolated(trial: Trial) -> Trial:
    """The trial whose trained weights this one interpolates: the same mitigation in training, or the main comparison."""
    rest = in_training(trial.mitigation)
    return replace(trial, mitigation=rest, role="grid" if rest == "none" else trial.role)


def trained_before(folder: Path) -> Row | None:
    """What a finished trial took, where its folder still holds what can be interpolated as it lies there: a LoRA, or a whole model."""
    result = folder / "result"
    if not (folder / "row.json").is_file() or not (is_plain_lora(result) or (result / "config.json").is_file()):
        return None
    row = json.loads((folder / "row.json").read_text())
    return {name: row.get(name) for name in COSTS} | {"trained_in": folder.name} if row["status"] in ("done", "stopped") else None


def save_or_say(bench: Bench, trainable: Trainable, mitigation: Mitigation, folder: Path) -> Served:
    """`save_served`, with a disk that is full told in one clear line."""
    return with_disk_told(folder, lambda: save_served(bench, trainable, mitigation, folder / "result"))


def with_disk_told(folder: Path, write: Callable[[], Served]) -> Served:
    """What `write` gives. Raises AssayError where the disk is full; safetensors has an error of its own for it."""
    from safetensors import SafetensorError

    try:
        return write()
    except (OSError, SafetensorError) as error:
        raise AssayError(
            f"the result cannot be written: {error}", where=str(folder), do="make room; the study goes on with this trial"
        ) from None


def save_served(bench: Bench, trainable: Trainable, mitigation: Mitigation, result: Path) -> Served:
    """Save what was learned, and give the model directory and adapter by which engines load it."""
    shutil.rmtree(result, ignore_errors=True)
    trainable.save(result)
    return serve(bench, mitigation, result, trainable.merged)


def serve_again(bench: Bench, mitigation: Mitigation, before: Path, result: Path) -> Served:
    """The same from what another trial saved: a LoRA or a whole model."""
    shutil.rmtree(result, ignore_errors=True)
    if is_plain_lora(before):
        shutil.copytree(before, result)
    return serve(bench, mitigation, result, lambda: open_base(before))


def serve(bench: Bench, mitigation: Mitigation, result: Path, folded: Callable[[], Module] | None) -> Served:
    """By which model directory and adapter engines load a result; `folded()` is it as a whole model.

    Interpolation scales a LoRA; any other method that folds into the weights becomes a model of its own.
    """
    config = result / "adapter_config.json"
    kind = json.loads(config.read_text())["peft_type"] if config.is_file() else None
    if mitigation.wise_ft < 1 and is_plain_lora(result):
        scale_lora(result, mitigation.wise_ft)
        return bench.base, result
    if mitigation.wise_ft == 1 and kind not in (None, selection.KIND):
        return bench.base, result
    assert folded is not None, "refused before training"
    folder = result if kind is None else result.with_name("merged")
    merged = folded()
    if mitigation.wise_ft < 1:
        merged = interpolate(open_base(bench.base), merged, mitigation.wise_ft)
    merged.save_pretrained(str(folder))
    for pattern in BESIDE:
        for path in bench.base.glob(pattern):
            shutil.copy(path, folder / path.name)
    return folder, None


def open_served(served: Served) -> Module:
    """The served model in this process, from what is on disk."""
    model, adapter = served
    return open_base(model) if adapter is None else attach(open_base(model), adapter)


def closeness(bench: Bench, trial: Trial, served: Served, trained: Module | None) -> Row:
    """Distance of what is served from the base, and from what was `trained` (`parity`; None where it was interpolated).

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
    if trained is not None and not only_text:
        found["parity"] = largest_difference(trained, model, target[:8])
    return found


def reference(bench: Bench, name: str, examples: Sequence[Example]) -> Any:
    """The base's log-probabilities, computed once for all trials. Without any adapter: the base is loaded afresh."""
    if name not in bench.references:
        bench.references[name] = log_probabilities(open_base(bench.base), examples)
    return bench.references[name]


def scores(bench: Bench, trial: Trial, served: Served, trained: Module | None = None) -> Row:
    """Gain on the target's test split, its validation score for choosing rates, and drops on the retention tasks.

    A trial that only chooses the rate never sees the test split. What was `trained` is held against what the engine said.
    """
    target = bench.tasks[trial.target].full_name
    before = bench.before[target]
    row: Row = {"metric": before.metric, "target_base": before.value}
    if trial.role in bench.chooses:
        split, held = bench.choosing[trial.target]
        chosen = bench.scorer(*served, (trial.target,), split=split, limit=held)[target]
        row |= {"validation_score": chosen.value, "validation_run_id": chosen.run}
    if trial.role == "rate":
        return row
    after = bench.scorer(*served, (trial.target,))[target]
    gain = difference(before, after, bench.metric(before))
    row |= {
        "target_score": after.value,
        "gain": gain.value,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "items": len(after.clusters),
        "run_id": after.run,
    }
    if after.invalid is not None:
        row |= {"invalid_output_rate": after.invalid, "invalid_output_rate_base": before.invalid}
    if trained is not None and after.heard:
        row["engine_parity"] = engine_parity(bench, trained, after.heard)
    return row | kept_row(bench, served)


def engine_parity(bench: Bench, trained: Module, heard: Sequence[Heard]) -> float | None:
    """Largest difference in log-probability between what the engine said of a few continuations and the trained model in this process."""
    worst = 0.0
    for each, cut in zip(heard, cut_pairs(bench.tokenizer, [(each.prompt, (each.continuation,)) for each in heard]), strict=True):
        tokens = cut.continuations[0]
        if len(tokens) != len(each.logprobs):
            return None
        logs = log_probabilities(trained, [Example(cut.context + tokens, len(cut.context))])
        said = zip(logs, tokens, each.logprobs, strict=True)
        worst = max(worst, *(abs(float(position[token]) - engine) for position, token, engine in said))
    return worst


def kept_row(bench: Bench, served: Served) -> Row:
    """Drops on the retention tasks, asked plainly, and with examples in the prompt: what comes back then was format, not knowledge."""
    if not bench.retain:
        return drops_row(bench.before, {})
    kept = bench.scorer(*served, bench.retain, limit=bench.retain_limit)
    row = drops_row(bench.before, kept, bench.metric)
    row |= {"retain_run_id": next(iter(kept.values())).run}
    invalid = {name: score.invalid for name, score in kept.items() if score.invalid is not None}
    if invalid:
        row |= {"retention_invalid_output_rates": invalid}
    if not bench.shown:
        return row
    shown = bench.scorer(*served, bench.shown, shots=bench.retain_shots, limit=bench.retain_limit)
    before = {name: bench.before[shots_name(name, bench.retain_shots)] for name in shown}
    return row | {"retain_shots_run_id": next(iter(shown.values())).run} | recovered(row, drops_row(before, shown, bench.metric))
