"""Runs one trial: train, save, load the saved result, score it before and after, and return one row."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from assay import AssayError
from assay.harness.run.stages import encode_pairs
from assay.tuners.methods import find_method
from assay.tuners.methods.saved import saved_bytes
from assay.tuners.study.along import RunPath, validation_loss
from assay.tuners.study.forgetting import bits_per_byte
from assay.tuners.study.scoring import EngineLogprobs, difference, drops_row, recovered, shots_name
from assay.tuners.study.trial import (
    Row,
    Served,
    StudySetup,
    Trial,
    data_row,
    open_base,
    open_served,
    plan_trial,
    prepare_model,
    protected_examples,
    reference,
    virtual_tokens,
)
from assay.tuners.training import selection
from assay.tuners.training.batches import Example
from assay.tuners.training.loss import kl_of, largest_difference, log_probabilities, loss_of
from assay.tuners.training.memory import peak_memory
from assay.tuners.training.method import Method, Module, Trainable
from assay.tuners.training.mitigation import (
    Mitigation,
    in_training,
    interpolate,
    is_plain_lora,
    parse_mitigation,
    scale_lora,
    training_extras,
)
from assay.tuners.training.train import Progress, Trained, Watch, train

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja", "added_tokens.json")


def run_trial(
    setup: StudySetup, trial: Trial, folder: Path, report: Callable[[Progress], None] = lambda progress: None, plain: Path | None = None
) -> Row:
    """Run one trial and return its row. A diverged run, or a method or mitigation that the model does not support, gives a row with that
    status. Errors of the disk or of scoring are raised; a resumed study runs the trial again.

    `plain`: the folder of the same trial without interpolation; its trained weights are reused if they still exist.
    """
    began = time.monotonic()
    method, mitigation = find_method(trial.method), parse_mitigation(trial.mitigation)
    row, trained = find_trained(plain) if mitigation.wise_ft < 1 and plain else None, None
    if row is not None and plain is not None:
        with disk_errors(folder):
            served = serve_trained(setup, mitigation, plain / "result", folder / "result")
    else:
        recipe = replace(setup.recipe, lr=trial.lr * mitigation.lower_lr, seed=trial.seed)
        try:
            steps = plan_trial(setup, trial, mitigation)
            trainable = prepare_model(setup, trial, mitigation, steps)
            extras = training_extras(
                mitigation, trainable, setup.validation[trial.target], protected_examples(setup, mitigation), seed=trial.seed
            )
        except AssayError as error:
            return {"family": method.family, "status": "refused", "reason": str(error)}
        path = RunPath(setup, trial, trainable.model, folder) if setup.points and mitigation.wise_ft == 1 else None
        watch = Watch(points_of(setup, method), path.measure) if path and trial.role != "rate" else Watch()
        done = train(trainable, steps, recipe, extras, folder / "training", report, watch) if steps or path else untrained()
        row = costs(method, trainable, done) | data_row(setup, trial, steps)
        if path or done.status == "diverged":
            row |= live_row(setup, trial, path, trainable, folder) if path and done.status != "diverged" else {}
            return {**row, "seconds": time.monotonic() - began}
        served, trained = save_result(setup, trainable, mitigation, folder), trainable.model
    row |= {"served": "own model" if served[1] is None else "adapter", "saved_bytes": saved_bytes(folder / "result")}
    row |= divergence_row(setup, trial, served, trained if mitigation.wise_ft == 1 else None)
    row |= scores(setup, trial, served, trained if mitigation.wise_ft == 1 else None)
    if served[1] is None and (served[0] != folder / "result" or not setup.keep_models):
        shutil.rmtree(served[0])
    shutil.rmtree(folder / "training", ignore_errors=True)
    return {**row, "seconds": time.monotonic() - began}


def points_of(setup: StudySetup, method: Method) -> frozenset[int]:
    """The steps after which a run is scored; also before the first, where the method changes the model without training."""
    return frozenset(setup.points) | (frozenset() if method.identity else {0})


def live_row(setup: StudySetup, trial: Trial, path: RunPath, trainable: Trainable, folder: Path) -> Row:
    """The scores of a run that is scored along its way, and the size of its result, of which adapters stay on disk."""
    row: Row = {"validation_loss": validation_loss(setup, trial, trainable.model)} if trial.target in setup.rate_splits else {}
    if trial.role == "rate":
        return row
    row |= path.row()
    with disk_errors(folder):
        shutil.rmtree(folder / "result", ignore_errors=True)
        trainable.save(folder / "result")
        row["saved_bytes"] = saved_bytes(folder / "result")
        if not setup.keep_models and (folder / "result" / "config.json").is_file():
            shutil.rmtree(folder / "result")
    shutil.rmtree(folder / "training", ignore_errors=True)
    return row


def untrained() -> Trained:
    return Trained("done", 0, (), 0, 0, 0.0, peak_memory())


def costs(method: Method, trainable: Trainable, done: Trained) -> Row:
    """The columns about training: size, time, memory, losses, status."""
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
    *("training_rows", "rows_left_out", "answers_cut", "epochs"),
)
"""The columns about training."""


def uninterpolated(trial: Trial) -> Trial:
    """The trial whose trained weights this one interpolates: the same without `wise_ft`."""
    rest = in_training(trial.mitigation)
    return replace(trial, mitigation=rest, role="grid" if rest == "none" else trial.role)


def find_trained(folder: Path) -> Row | None:
    """The training columns of a finished trial if its folder still holds weights that can be interpolated: a LoRA or a full model."""
    result = folder / "result"
    if not (folder / "row.json").is_file() or not (is_plain_lora(result) or (result / "config.json").is_file()):
        return None
    row = json.loads((folder / "row.json").read_text())
    return {name: row.get(name) for name in COSTS} | {"trained_in": folder.name} if row["status"] in ("done", "stopped") else None


def save_result(setup: StudySetup, trainable: Trainable, mitigation: Mitigation, folder: Path) -> Served:
    """Save the trained parameters; returns the model directory and adapter with which engines load them. Raises AssayError if the disk is
    full."""
    result = folder / "result"
    with disk_errors(folder):
        shutil.rmtree(result, ignore_errors=True)
        trainable.save(result)
        return serve(setup, mitigation, result, trainable.merged)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns errors of writing into an AssayError of one line; safetensors has an error type of its own for a full disk."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise AssayError(
            f"cannot write the result: {error}", where=str(folder), do="free disk space and run the same command again"
        ) from None


def serve_trained(setup: StudySetup, mitigation: Mitigation, before: Path, result: Path) -> Served:
    """Serve the LoRA or full model that another trial saved."""
    shutil.rmtree(result, ignore_errors=True)
    if is_plain_lora(before):
        shutil.copytree(before, result)
    return serve(setup, mitigation, result, lambda: open_base(before))


def serve(setup: StudySetup, mitigation: Mitigation, result: Path, merged: Callable[[], Module] | None) -> Served:
    """The model directory and adapter with which engines load a result; `merged()` gives it as a full model.

    Interpolation scales a LoRA; the result of any other method that can be merged is saved as a full model.
    """
    config = result / "adapter_config.json"
    kind = json.loads(config.read_text())["peft_type"] if config.is_file() else None
    if mitigation.wise_ft < 1 and is_plain_lora(result):
        scale_lora(result, mitigation.wise_ft)
        return setup.base, result
    if mitigation.wise_ft == 1 and kind not in (None, selection.KIND):
        return setup.base, result
    assert merged is not None, "refused before training"
    folder = result if kind is None else result.with_name("merged")
    model = merged()
    if mitigation.wise_ft < 1:
        model = interpolate(open_base(setup.base), model, mitigation.wise_ft)
    model.save_pretrained(str(folder))
    for pattern in TOKENIZER_FILES:
        for path in setup.base.glob(pattern):
            shutil.copy(path, folder / path.name)
    return folder, None


def divergence_row(setup: StudySetup, trial: Trial, served: Served, trained: Module | None) -> Row:
    """KL of the served model from the base, and its largest difference from the `trained` model (`parity`; None if interpolated).

    A trial that only chooses the learning rate is measured on the neutral text and its validation loss alone.
    """
    model, target = open_served(served), setup.validation[trial.target]
    found: Row = {}
    only_text = trial.role == "rate"
    if trial.role == setup.rate_role and trial.target in setup.rate_splits:
        found["validation_loss"] = validation_loss(setup, trial, model)
    for name, examples in (("kl_target", target), ("kl_base", setup.probes), ("kl_text", setup.text))[2 * only_text :]:
        if examples:
            base = reference(setup, name if name != "kl_target" else f"kl_target of {trial.target}", examples)
            logs = log_probabilities(model, examples)
            found[name] = kl_of(base, logs)
            if name == "kl_target":
                found |= {"target_loss": loss_of(logs, examples), "target_loss_base": loss_of(base, examples)}
            if name == "kl_text":
                nats = loss_of(logs, examples) - loss_of(base, examples)
                found |= {"delta_loss_text": nats, "delta_bits_per_byte": bits_per_byte(nats, 1) / setup.bytes_per_token}
    if trained is not None and not only_text:
        found["parity"] = largest_difference(trained, model, target[:8])
    return found


def scores(setup: StudySetup, trial: Trial, served: Served, trained: Module | None = None) -> Row:
    """Gain on the target's test split, and drops on the retention tasks.

    A trial that only chooses the learning rate is not scored on the test split. `engine_parity` compares `trained` with the engine.
    """
    target = setup.tasks[trial.target].full_name
    before = setup.before[target]
    row: Row = {"metric": before.metric, "target_base": before.value}
    if trial.role == "rate":
        return row
    after = setup.scorer(*served, (trial.target,))[target]
    gain = difference(before, after, setup.metric(before))
    row |= {
        "target_score": after.value,
        "gain": gain.value,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "items": len(after.clusters),
        "run_id": after.run,
        "item_scores": dict(after.items),
    }
    if after.invalid is not None:
        row |= {"invalid_output_rate": after.invalid, "invalid_output_rate_base": before.invalid}
    if trained is not None and after.engine_logprobs:
        row["engine_parity"] = engine_parity(setup, trained, after.engine_logprobs)
    return row | retention_row(setup, served)


def engine_parity(setup: StudySetup, trained: Module, scored: Sequence[EngineLogprobs]) -> float | None:
    """Largest difference in log-probability, in nats, between the engine and the trained model on a few continuations.

    None if the engine split them into other tokens.
    """
    worst = 0.0
    for each, cut in zip(scored, encode_pairs(setup.tokenizer, [(each.prompt, (each.continuation,)) for each in scored]), strict=True):
        tokens = cut.continuations[0]
        if len(tokens) != len(each.logprobs):
            return None
        logs = log_probabilities(trained, [Example(cut.context + tokens, len(cut.context))])
        positions = zip(logs, tokens, each.logprobs, strict=True)
        worst = max(worst, *(abs(float(position[token]) - engine) for position, token, engine in positions))
    return worst


def retention_row(setup: StudySetup, served: Served) -> Row:
    """Drops on the retention tasks, without and with few-shot examples. A drop that the examples recover is lost format, not knowledge."""
    if not setup.retain:
        return drops_row(setup.before, {})
    kept = setup.scorer(*served, setup.retain, limit=setup.retain_limit)
    row = drops_row(setup.before, kept, setup.metric)
    row |= {"retain_run_id": next(iter(kept.values())).run}
    invalid = {name: score.invalid for name, score in kept.items() if score.invalid is not None}
    if invalid:
        row |= {"retention_invalid_output_rates": invalid}
    if not setup.few_shot:
        return row
    few_shot = setup.scorer(*served, setup.few_shot, shots=setup.retain_shots, limit=setup.retain_limit)
    before = {name: setup.before[shots_name(name, setup.retain_shots)] for name in few_shot}
    return row | {"retain_shots_run_id": next(iter(few_shot.values())).run} | recovered(row, drops_row(before, few_shot, setup.metric))
