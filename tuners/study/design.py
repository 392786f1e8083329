"""The trials of a study: methods x learning rates x seeds x mitigations on equal budgets, with controls. Pure values, no model."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from statistics import mean
from typing import Any

from assay import AssayError
from assay.tuners.methods import find_method
from assay.tuners.study.forgetting import choice_score
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

    points: tuple[int, ...] = ()
    """Steps after which a run is scored on the target and the neutral texts, besides its end. Empty: runs are scored at their end alone,
    saved and loaded again."""
    more_texts: tuple[str, ...] = ()
    """Further neutral texts, each as `text`; only with `points`."""
    centres: Mapping[str, float] = field(default_factory=dict)
    """By method the learning rate that `rates` multiply, instead of the method's default."""
    extensions: int = 0
    """Most learning rates that are tried beyond the edges of `rates` while the best one is at an edge."""

    def __post_init__(self) -> None:
        check_plan(self, self.targets)
        check_numbers(self, "points", self.points)
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
        if values[each.name] != usual_value(each):
            found[each.name] = values[each.name]
    as_json: dict[str, Any] = json.loads(json.dumps(found))
    return as_json


def usual_value(setting: Field[Any]) -> Any:
    """A setting's default; MISSING if it has none."""
    return setting.default_factory() if setting.default_factory is not MISSING else setting.default


ADDED = ("targets", "methods", "seeds", "mitigations", "mitigated", "rates", "shots")
"""Settings that say which trials a study has, not how one is run: a folder may hold the trials of several studies that differ in them."""
BY_METHOD = ("centres", "options")
"""Settings by method, to which other methods may be added."""


def together(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The identity of two studies in one folder, and the settings that forbid it, since trials of equal keys would differ.

    One rate and several do not go together: several are chosen on rows that are then not trained on. A study that mixes its targets in
    training (`multi_task`) must have all targets of the folder.
    """
    usual: dict[str, Any] = json.loads(json.dumps({each.name: usual_value(each) for each in fields(Study)}, default=str))
    one, two = ({**usual, **facts} for facts in (held, wanted))
    whole = {**two, **{name: list(dict.fromkeys([*one[name], *two[name]])) for name in ADDED}}
    whole |= {name: {**one[name], **two[name]} for name in BY_METHOD}
    differ = [name for name in one.keys() | two.keys() if name not in (*ADDED, *BY_METHOD) and one.get(name) != two.get(name)]
    differ += [name for name in BY_METHOD if any(one[name][key] != two[name][key] for key in one[name].keys() & two[name].keys())]
    differ += ["rates"] * (one["rates"] != two["rates"] and not one["rate_seeds"] and min(len(one["rates"]), len(two["rates"])) < 2)
    mixing = [facts for facts in (one, two) if any(parse_mitigation(text).multi_task for text in facts["mitigations"])]
    differ += ["targets"] * any(facts["targets"] != whole["targets"] for facts in mixing)
    return {name: value for name, value in whole.items() if name not in usual or value != usual[name]}, sorted(differ)


def trial_key(trial: Trial) -> str:
    """The name of a trial's folder: method, seed and a hash of all settings."""
    digest = hashlib.sha256(early_names(json.dumps(asdict(trial), sort_keys=True)).encode()).hexdigest()[:12]
    return f"{trial.method.replace(':', '-')}-{trial.seed}-{digest}"


def options_of(study: Study, method: str) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(study.options.get(method, {}).items()))


def centre_of(study: Study, method: str) -> float:
    """The learning rate that the study's `rates` multiply."""
    return study.centres.get(method, find_method(method).lr)


def grid(study: Study) -> tuple[Trial, ...]:
    """Every method at every learning rate. With `rate_seeds` these trials only choose the learning rate (role "rate")."""
    role, seeds = ("rate", study.rate_seeds) if study.rate_seeds else ("grid", study.seeds)
    return tuple(
        Trial(target, name, centre_of(study, name) * rate, seed, role=role, loss_tokens=study.loss_tokens, options=options_of(study, name))
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
    """The learning rate with the lowest mean validation loss over seeds, by target and method (earlier versions: the highest score). A
    diverged trial counts as the method's worst. Ties go to the lower learning rate."""
    found: dict[tuple[str, str], dict[float, list[float | None]]] = {}
    kept = list(rows)
    role = "rate" if any(row["role"] == "rate" for row in kept) else "grid"
    for row in kept:
        if row["role"] == role:
            by_rate = found.setdefault((row["target"], row["method"]), {})
            by_rate.setdefault(row["lr"], []).append(choice_score(row))
    return {key: best_rate(by_rate) for key, by_rate in found.items()}


def best_rate(by_rate: Mapping[float, Sequence[float | None]]) -> float:
    worst = min([0.0, *(score for scores in by_rate.values() for score in scores if score is not None)])
    return max(sorted(by_rate), key=lambda lr: mean(worst if score is None else score for score in by_rate[lr]))


def rates_to_try(study: Study, done: Sequence[Row], target: str, method: str) -> tuple[tuple[float, ...], bool]:
    """The learning rates of a target and method, as multiples of the method's own, as far as the finished rows determine them; and whether
    all of them are finished. While the best one is at an edge, another beyond it is added, up to `extensions`."""
    role, seeds = ("rate", study.rate_seeds) if study.rate_seeds else ("grid", study.seeds)
    own = centre_of(study, method)
    found: dict[float, list[float | None]] = {}
    for row in done:
        if (row["role"], row["target"], row["method"], row.get("mitigation", "none")) == (role, target, method, "none"):
            found.setdefault(row["lr"], []).append(choice_score(row))
    tried = tuple(sorted(study.rates))
    for added in range(study.extensions + 1):
        if any(len(found.get(own * rate, ())) < len(seeds) for rate in tried):
            return tried, False
        best = best_rate({own * rate: found[own * rate] for rate in tried})
        if len(tried) < 2 or added == study.extensions or best not in (own * tried[0], own * tried[-1]):
            break
        tried = (tried[0] ** 2 / tried[1], *tried) if best == own * tried[0] else (*tried, tried[-1] ** 2 / tried[-2])
    return tried, True


def known_rates(study: Study, done: Sequence[Row]) -> dict[tuple[str, str], float]:
    """The chosen learning rates of targets and methods whose rate trials are all finished; others may still run in another worker."""
    chosen = choose_rates(done)
    every = [(target, method) for target in study.targets for method in study.methods]
    return {key: chosen[key] for key in every if rates_to_try(study, done, *key)[1] and key in chosen}


def ordered_trials(study: Study, done: Sequence[Row]) -> Iterator[Trial]:
    """The trials in an order that makes an interrupted study usable: per target and method the learning rates and the first seed, then
    the controls of that seed, then one more seed at a time, then one mitigation at a time.

    Learning rates are chosen from the finished rows; trials whose learning rate is not known yet are omitted.
    """
    first = study.seeds[0]
    yield from untuned_trials(study, first)
    yield from compared_trials(study, done, first)
    chosen = known_rates(study, done)
    for seed in study.seeds:
        if seed != first:
            yield from untuned_trials(study, seed)
            yield from compared_trials(study, done, seed)
        yield from control_trials(study, chosen, seed)
    for mitigation in study.mitigations:
        yield from mitigated_trials(study, chosen, mitigation)


def compared_trials(study: Study, done: Sequence[Row], seed: int) -> Iterator[Trial]:
    """The runs of one seed by which methods are compared, method by method, each after those that choose its learning rate."""
    for target in study.targets:
        for method in study.methods:
            one = replace(study, targets=(target,), methods=(method,))
            tried = replace(one, rates=rates_to_try(study, done, target, method)[0])
            if study.rate_seeds:
                yield from grid(tried) if seed == study.seeds[0] else ()
                yield from main_trials(one, known_rates(one, done), seed)
            else:
                yield from grid(replace(tried, seeds=(seed,)))


def count_trials(study: Study) -> int:
    """The total number of trials."""
    any_rate = {(target, method): 1.0 for target in study.targets for method in study.methods}
    by_seed = [each(study, any_rate, seed) for seed in study.seeds for each in (main_trials, control_trials)]
    later = [*by_seed, *(mitigated_trials(study, any_rate, each) for each in study.mitigations)]
    untuned = [untuned_trials(study, seed) for seed in study.seeds]
    return len(grid(study)) + sum(1 for trials in (*later, *untuned) for _ in trials)
