"""What a study compares: methods x learning rates x seeds x mitigations on equal budgets, with controls. Pure values, no model."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from statistics import mean
from typing import Any

from assay import AssayError
from assay.tuners.methods import find_method
from assay.tuners.study.trial import Row, Trial
from assay.tuners.training.mitigation import parse_mitigation


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
    rate_seeds: tuple[int, ...] = ()
    """Seeds of trials that only choose the rate; the main comparison then runs at the chosen rate. Empty: it runs at every rate."""
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
    """Most scored items of a target; None: all."""
    retain_limit: int | None = None
    """Most scored items of a retention task; None: as many as of a target."""
    retain_shots: int = 0
    """Examples in the prompt with which the retention tasks are scored once more; 0: they are not."""
    probes: int = 64
    text: str = ""
    """Neutral text, for KL and bits per byte away from any task: a file, or a task that scores whole texts."""
    text_tokens: int = 1024
    """Most tokens of it."""
    keep_models: bool = True
    """Whether whole tuned models stay on disk once they are scored; adapters always do."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    chat: bool = False
    """Whether everything goes through the model's chat template: training, choosing and scoring alike."""
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        check_plan(self, self.targets)
        check_numbers(self, "rates", self.rates, least=math.nextafter(0, 1))
        check_numbers(self, "shots", (0, *self.shots))
        check_numbers(self, "held", (self.held,), least=1)
        check_numbers(self, "text_tokens", (self.text_tokens,), least=1)


def check_plan(plan: Any, tasks: tuple[str, ...]) -> None:
    """Raises AssayError for what a study or sequence cannot mean. Neither a method nor a model is opened for it."""
    for kind, names in (("task", (*tasks, *plan.retain)), ("method", plan.methods), ("mitigation", plan.mitigations), ("seed", plan.seeds)):
        for name, count in Counter(names).items():
            if count > 1:
                both = name in tasks and name in plan.retain
                what = f"task {name} is learned and to be kept" if kind == "task" and both else f"{kind} {name} is named {count} times"
                raise AssayError(what, where=plan.name, do="name it once")
    for kind, names in (("task", tasks), ("method", plan.methods), ("seed", plan.seeds)):
        if not names:
            raise AssayError(f"no {kind} named", where=plan.name, do="give at least one")
    for text in plan.mitigations:
        parse_mitigation(text)
    check_numbers(plan, "seeds", plan.seeds)
    for name in ("loss_tokens", "batch", "micro", "examples", "limit", "retain_limit"):
        check_numbers(plan, name, [value for value in (getattr(plan, name),) if value is not None], least=1)


def check_methods(methods: Iterable[str], options: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises AssayError for methods that are not there or train nothing, and for options that they do not have."""
    seen: dict[str, str] = {}
    for name in methods:
        method = find_method(name)
        if seen.setdefault(method.name, name) != name:
            raise AssayError(f"{seen[method.name]} and {name} are one method", where="study", do="name it once")
        if method.family == "in_context":
            raise AssayError(
                "trains nothing", where=name, do="name a method that trains; examples in the prompt are rows of every study (--shots)"
            )
        method.check_options(options.get(name, {}))


def check_numbers(plan: Any, name: str, values: Iterable[float], least: float = 0) -> None:
    """Raises AssayError for a number that is none, or below the least that means something."""
    for value in values:
        if not (math.isfinite(value) and value >= least):
            bound = "above 0" if 0 < least < 1 else f"of at least {least:g}"
            raise AssayError(f"{name} cannot be {value:g}", where=plan.name, do=f"use numbers {bound}")


def identity(study: Any, model: str) -> dict[str, Any]:
    """What makes two studies (or sequences) the same: every setting that is no default, and the digest of the model's weights."""
    found: dict[str, Any] = {"model": model}
    values = asdict(study)
    for each in fields(study):
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if values[each.name] != default:
            found[each.name] = values[each.name]
    whole: dict[str, Any] = json.loads(json.dumps(found))
    return whole


def trial_key(trial: Trial) -> str:
    """A readable name with a hash: equal trials share a folder."""
    digest = hashlib.sha256(json.dumps(asdict(trial), sort_keys=True).encode()).hexdigest()[:12]
    return f"{trial.method.replace(':', '-')}-{trial.seed}-{digest}"


def options_of(study: Study, method: str) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(study.options.get(method, {}).items()))


def grid(study: Study) -> tuple[Trial, ...]:
    """Every method at every rate: equal trials for each. With `rate_seeds` they only choose the rate (role "rate")."""
    role, seeds = ("rate", study.rate_seeds) if study.rate_seeds else ("grid", study.seeds)
    return tuple(
        Trial(target, name, find_method(name).lr * rate, seed, role=role, loss_tokens=study.loss_tokens, options=options_of(study, name))
        for target in study.targets
        for name in study.methods
        for rate in study.rates
        for seed in seeds
    )


Chosen = Mapping[tuple[str, str], float]
"""The chosen rate by target and method."""


def main_trials(study: Study, chosen: Chosen, seed: int) -> Iterator[Trial]:
    """The main comparison of one seed, where the grid was only for choosing."""
    if study.rate_seeds:
        for (target, method), lr in chosen.items():
            yield Trial(target, method, lr, seed, loss_tokens=study.loss_tokens, options=options_of(study, method))


def control_trials(study: Study, chosen: Chosen, seed: int) -> Iterator[Trial]:
    """The controls, at the chosen rates. Random labels and adapters before training (LoRA as the identity, and what changes the model by
    its mere presence) are single rows; what moves a frontier has every seed.
    """
    first = seed == study.seeds[0]
    for (target, method), lr in chosen.items():
        plain = Trial(target, method, lr, seed, loss_tokens=study.loss_tokens, options=options_of(study, method))
        if study.controls and method == "full":
            yield replace(plain, mitigation="lower_lr=0.1", role="tenth_rate")
        if study.controls and first and method in ("lora", "full"):
            yield replace(plain, labels="random", role="random_labels")
        if study.controls and first and (method == "lora" or find_method(method).identity is False):
            yield replace(plain, loss_tokens=0, role="untrained")


def mitigated_trials(study: Study, chosen: Chosen, mitigation: str) -> Iterator[Trial]:
    """One mitigation at the chosen rates, with every seed."""
    for seed in study.seeds:
        for (target, method), lr in chosen.items():
            if method in study.mitigated:
                yield Trial(
                    target, method, lr, seed, mitigation, "mitigation", loss_tokens=study.loss_tokens, options=options_of(study, method)
                )


def untuned_trials(study: Study, seed: int) -> Iterator[Trial]:
    """The base, once, and with examples in its prompt, drawn anew for every seed."""
    for target in study.targets:
        if seed == study.seeds[0]:
            yield Trial(target, "base", 0.0, 0, role="base", options=(("shots", 0),))
        for shots in study.shots:
            yield Trial(target, "in_context", 0.0, seed, role="in_context", options=(("shots", shots),))


def choose_rates(rows: Iterable[Row]) -> dict[tuple[str, str], float]:
    """The rate with the best mean validation score on the target over seeds; a diverged trial counts as zero, or as the method's worst
    score where that is below zero. Ties go to the lower rate."""
    found: dict[tuple[str, str], dict[float, list[float | None]]] = {}
    kept = list(rows)
    role = "rate" if any(row["role"] == "rate" for row in kept) else "grid"
    for row in kept:
        if row["role"] == role:
            by_rate = found.setdefault((row["target"], row["method"]), {})
            by_rate.setdefault(row["lr"], []).append(row.get("validation_score"))
    return {key: best_rate(by_rate) for key, by_rate in found.items()}


def best_rate(by_rate: Mapping[float, Sequence[float | None]]) -> float:
    worst = min([0.0, *(score for scores in by_rate.values() for score in scores if score is not None)])
    return max(sorted(by_rate), key=lambda lr: mean(worst if score is None else score for score in by_rate[lr]))


def known_rates(study: Study, done: Sequence[Row]) -> dict[tuple[str, str], float]:
    """The chosen rates where every trial that chooses is done; elsewhere another worker may still be at one."""
    choosing = "rate" if study.rate_seeds else "grid"
    counts = Counter((row["target"], row["method"]) for row in done if row["role"] == choosing)
    needed = len(study.rates) * len(study.rate_seeds or study.seeds)
    chosen = choose_rates(done)
    return {key: chosen[key] for target in study.targets for method in study.methods if counts[key := (target, method)] == needed}


def agenda(study: Study, done: Sequence[Row]) -> Iterator[Trial]:
    """The trials in an order of which every beginning is a usable study: target by target and method by method the rates and the first
    seed, then the controls of that seed, then one more seed at a time, then one mitigation after another.

    Rates are chosen from the rows that are there; trials whose rate is not known yet are left to the next agenda.
    """
    first = study.seeds[0]
    yield from untuned_trials(study, first)
    for target in study.targets:
        for method in study.methods:
            one = replace(study, targets=(target,), methods=(method,))
            yield from grid(one)
            yield from main_trials(one, only(known_rates(study, done), target, method), first)
    chosen = known_rates(study, done)
    for seed in study.seeds:
        if seed != first:
            yield from untuned_trials(study, seed)
            yield from main_trials(study, chosen, seed)
        yield from control_trials(study, chosen, seed)
    for mitigation in study.mitigations:
        yield from mitigated_trials(study, chosen, mitigation)


def only(chosen: Chosen, target: str, method: str) -> Chosen:
    return {key: lr for key, lr in chosen.items() if key == (target, method)}


def planned(study: Study) -> int:
    """How many trials there are in all."""
    pretended = {(target, method): 1.0 for target in study.targets for method in study.methods}
    by_seed = [each(study, pretended, seed) for seed in study.seeds for each in (main_trials, control_trials)]
    later = [*by_seed, *(mitigated_trials(study, pretended, each) for each in study.mitigations)]
    untuned = [untuned_trials(study, seed) for seed in study.seeds]
    return len(grid(study)) + sum(1 for trials in (*later, *untuned) for _ in trials)
