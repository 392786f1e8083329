"""The trials of a study: methods x learning rates x seeds x mitigations on equal budgets, with controls. Pure values, no model."""

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
from assay.tuners.study.trial import Row, Trial, early_names
from assay.tuners.training.mitigation import parse_mitigation


@dataclass(frozen=True, slots=True)
class Study:
    """The settings of a study. Every method gets the same number of trials and the same loss tokens.

    `rates` are multiples of each method's default learning rate; `options` by method name override its defaults. The learning rate of
    the main comparison is chosen on the target's validation split alone, never on retention tasks.
    """

    name: str
    targets: tuple[str, ...]
    retain: tuple[str, ...]
    methods: tuple[str, ...]
    loss_tokens: int
    rates: tuple[float, ...] = (1 / 3, 1.0, 3.0)
    rate_seeds: tuple[int, ...] = ()
    """Seeds of trials that only choose the learning rate, at which the main comparison then runs. Empty: it runs at every learning rate."""
    seeds: tuple[int, ...] = (0, 1, 2)
    mitigations: tuple[str, ...] = ()
    mitigated: tuple[str, ...] = ("full", "lora")
    """Methods that are also run with the mitigations, at the chosen learning rate."""
    shots: tuple[int, ...] = (1, 4)
    controls: bool = True
    batch: int = 8
    micro: int = 8
    examples: int = 2000
    """Maximum number of training rows per target, and of replayed examples."""
    held: int = 200
    """Maximum number of rows on which a target's learning rate is chosen."""
    limit: int | None = None
    """Maximum number of scored items per target; None: all."""
    retain_limit: int | None = None
    """Maximum number of scored items per retention task; None: as for targets."""
    retain_shots: int = 0
    """Number of few-shot examples with which the retention tasks are scored a second time; 0: they are not."""
    probes: int = 64
    text: str = ""
    """Neutral text on which KL and bits per byte are measured: a file or a perplexity task."""
    text_tokens: int = 1024
    """Maximum number of tokens of the neutral text."""
    keep_models: bool = True
    """Whether full tuned models stay on disk after scoring; adapters always do."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    chat: bool = False
    """Whether training and scoring apply the model's chat template."""
    gradient_checkpointing: bool = False
    steps: int = 0
    """Most optimizer steps of a trial; 0: as many as its loss tokens need."""
    epochs: float = 0.0
    """Most passes over the training rows; 0: no limit."""
    max_length: int = 0
    """Longer examples have their answer cut to so many tokens with the prompt; 0: longer than the model's context is an error."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Changes of the training recipe, for example {"warmup": 0.03}."""
    all_rows: bool = False
    """Whether a target's training rows beyond `examples` are used too."""

    def __post_init__(self) -> None:
        check_plan(self, self.targets)
        check_numbers(self, "rates", self.rates, least=math.nextafter(0, 1))
        check_numbers(self, "shots", (0, *self.shots))
        check_numbers(self, "held", (self.held,), least=1)
        check_numbers(self, "text_tokens", (self.text_tokens,), least=1)


def check_plan(plan: Any, tasks: tuple[str, ...]) -> None:
    """Raises AssayError for contradictory or empty settings of a study or sequence, before any method or model is loaded."""
    for kind, names in (("task", (*tasks, *plan.retain)), ("method", plan.methods), ("mitigation", plan.mitigations), ("seed", plan.seeds)):
        for name, count in Counter(names).items():
            if count > 1:
                both = name in tasks and name in plan.retain
                what = (
                    f"task {name} is both a target and a retention task"
                    if kind == "task" and both
                    else f"{kind} {name} is listed {count} times"
                )
                raise AssayError(what, where=plan.name, do="list it once")
    for kind, names in (("task", tasks), ("method", plan.methods), ("seed", plan.seeds)):
        if not names:
            raise AssayError(f"no {kind} listed", where=plan.name, do="give at least one")
    for text in plan.mitigations:
        parse_mitigation(text)
    check_numbers(plan, "seeds", plan.seeds)
    for name in ("loss_tokens", "batch", "micro", "examples", "limit", "retain_limit"):
        check_numbers(plan, name, [value for value in (getattr(plan, name),) if value is not None], least=1)
    for name in ("steps", "epochs", "max_length"):
        check_numbers(plan, name, (getattr(plan, name),))


def check_methods(methods: Iterable[str], options: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises AssayError for unknown methods, methods that train nothing, and unknown options."""
    seen: dict[str, str] = {}
    for name in methods:
        method = find_method(name)
        if seen.setdefault(method.name, name) != name:
            raise AssayError(f"{seen[method.name]} and {name} are the same method", where="study", do="list it once")
        if method.family == "in_context":
            raise AssayError("trains nothing", where=name, do="leave it out; every study scores few-shot prompts anyway (--shots)")
        method.check_options(options.get(name, {}))


def check_numbers(plan: Any, name: str, values: Iterable[float], least: float = 0) -> None:
    """Raises AssayError for a number that is not finite or is below `least`."""
    for value in values:
        if not (math.isfinite(value) and value >= least):
            bound = "above 0" if 0 < least < 1 else f"of at least {least:g}"
            raise AssayError(f"{name} cannot be {value:g}", where=plan.name, do=f"use numbers {bound}")


def identity(study: Any, model: str) -> dict[str, Any]:
    """Identifies a study or sequence: every setting that differs from its default, and the digest of the model's weights."""
    found: dict[str, Any] = {"model": model}
    values = asdict(study)
    for each in fields(study):
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if values[each.name] != default:
            found[each.name] = values[each.name]
    as_json: dict[str, Any] = json.loads(json.dumps(found))
    return as_json


def trial_key(trial: Trial) -> str:
    """The name of a trial's folder: method, seed and a hash of all settings."""
    digest = hashlib.sha256(early_names(json.dumps(asdict(trial), sort_keys=True)).encode()).hexdigest()[:12]
    return f"{trial.method.replace(':', '-')}-{trial.seed}-{digest}"


def options_of(study: Study, method: str) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(study.options.get(method, {}).items()))


def grid(study: Study) -> tuple[Trial, ...]:
    """Every method at every learning rate. With `rate_seeds` these trials only choose the learning rate (role "rate")."""
    role, seeds = ("rate", study.rate_seeds) if study.rate_seeds else ("grid", study.seeds)
    return tuple(
        Trial(target, name, find_method(name).lr * rate, seed, role=role, loss_tokens=study.loss_tokens, options=options_of(study, name))
        for target in study.targets
        for name in study.methods
        for rate in study.rates
        for seed in seeds
    )


ChosenRates = Mapping[tuple[str, str], float]
"""The chosen learning rate by target and method."""


def main_trials(study: Study, chosen: ChosenRates, seed: int) -> Iterator[Trial]:
    """The main comparison with one seed; empty if the grid already is the main comparison."""
    if study.rate_seeds:
        for (target, method), lr in chosen.items():
            yield Trial(target, method, lr, seed, loss_tokens=study.loss_tokens, options=options_of(study, method))


def control_trials(study: Study, chosen: ChosenRates, seed: int) -> Iterator[Trial]:
    """The controls, at the chosen learning rates. Random labels and untrained adapters (LoRA, which must be the identity, and methods that
    are not) run with the first seed only; full tuning at a tenth of its learning rate, a point of its gain-forgetting curve, with all.
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


def mitigated_trials(study: Study, chosen: ChosenRates, mitigation: str) -> Iterator[Trial]:
    """One mitigation at the chosen learning rates, with every seed."""
    for seed in study.seeds:
        for (target, method), lr in chosen.items():
            if method in study.mitigated:
                yield Trial(
                    target, method, lr, seed, mitigation, "mitigation", loss_tokens=study.loss_tokens, options=options_of(study, method)
                )


def untuned_trials(study: Study, seed: int) -> Iterator[Trial]:
    """The base without few-shot examples (once), and with examples drawn by the seed."""
    for target in study.targets:
        if seed == study.seeds[0]:
            yield Trial(target, "base", 0.0, 0, role="base", options=(("shots", 0),))
        for shots in study.shots:
            yield Trial(target, "in_context", 0.0, seed, role="in_context", options=(("shots", shots),))


def choose_rates(rows: Iterable[Row]) -> dict[tuple[str, str], float]:
    """The learning rate with the best mean validation score over seeds, by target and method. A diverged trial counts as zero, or as the
    method's worst score if that is below zero. Ties go to the lower learning rate."""
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
    """The chosen learning rates of targets and methods whose rate trials are all finished; others may still run in another worker."""
    rate_role = "rate" if study.rate_seeds else "grid"
    counts = Counter((row["target"], row["method"]) for row in done if row["role"] == rate_role)
    needed = len(study.rates) * len(study.rate_seeds or study.seeds)
    chosen = choose_rates(done)
    return {key: chosen[key] for target in study.targets for method in study.methods if counts[key := (target, method)] == needed}


def ordered_trials(study: Study, done: Sequence[Row]) -> Iterator[Trial]:
    """The trials in an order that makes an interrupted study usable: per target and method the learning rates and the first seed, then
    the controls of that seed, then one more seed at a time, then one mitigation at a time.

    Learning rates are chosen from the finished rows; trials whose learning rate is not known yet are omitted.
    """
    first = study.seeds[0]
    yield from untuned_trials(study, first)
    for target in study.targets:
        for method in study.methods:
            one = replace(study, targets=(target,), methods=(method,))
            yield from grid(one)
            yield from main_trials(one, known_rates(one, done), first)
    chosen = known_rates(study, done)
    for seed in study.seeds:
        if seed != first:
            yield from untuned_trials(study, seed)
            yield from main_trials(study, chosen, seed)
        yield from control_trials(study, chosen, seed)
    for mitigation in study.mitigations:
        yield from mitigated_trials(study, chosen, mitigation)


def count_trials(study: Study) -> int:
    """The total number of trials."""
    any_rate = {(target, method): 1.0 for target in study.targets for method in study.methods}
    by_seed = [each(study, any_rate, seed) for seed in study.seeds for each in (main_trials, control_trials)]
    later = [*by_seed, *(mitigated_trials(study, any_rate, each) for each in study.mitigations)]
    untuned = [untuned_trials(study, seed) for seed in study.seeds]
    return len(grid(study)) + sum(1 for trials in (*later, *untuned) for _ in trials)
