"""The types of a task definition. A task is a frozen value; override its fields with `dataclasses.replace`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from assay.harness.errors import AssayError
from assay.harness.task.doc import Doc, Row, is_number, is_text
from assay.harness.task.metric import Metric
from assay.harness.task.output import ChoiceScores, Completion, ExpectedValue, Loglikelihoods, TextLogprob
from assay.harness.task.source import Source


@dataclass(frozen=True, slots=True)
class Choose:
    """Rank the choices by log-likelihood.

    `normalize` divides each sum by the choice's length ("chars", "bytes", "tokens") or leaves it ("sum"). `calibrate` is a neutral
    context; the choice's log-likelihood after this context is subtracted (HELM's separate_calibrated uses "Answer:").
    `ties`: k equally good choices count 1/k each ("share"), or the first of them counts, where a protocol fixes that ("first").
    """

    normalize: Literal["sum", "chars", "bytes", "tokens"] = "sum"
    calibrate: str | None = None
    ties: Literal["share", "first"] = field(default="share", repr=False)  # not in fingerprints, which are older than it
    reads = ChoiceScores

    def __post_init__(self) -> None:
        if self.normalize not in ("sum", "chars", "bytes", "tokens"):
            raise AssayError(f"Choose cannot normalize by {self.normalize!r:.40}", do="use 'sum', 'chars', 'bytes' or 'tokens'")
        if self.ties not in ("share", "first"):
            raise AssayError(f"Choose cannot break ties by {self.ties!r:.40}", do="use 'share' or 'first'")
        if self.calibrate is not None and not is_text(self.calibrate):
            raise AssayError(f"Choose(calibrate={self.calibrate!r:.40})", do="give a string, such as 'Answer:', or None")


@dataclass(frozen=True, slots=True)
class Loglikelihood:
    """Score every choice of the Doc (at least one) after its context, without ranking them: the metrics do that.

    `greedy`: also whether greedy decoding would generate each choice (LAMBADA).
    """

    greedy: bool = False
    reads = Loglikelihoods


@dataclass(frozen=True, slots=True, repr=False)
class Generate:
    """Generate text of up to `max_tokens` tokens or until a stop string: greedy, or `samples` completions at a `temperature`.

    `top_p`: sample from the likeliest tokens that have this probability together. `thinking_budget`: most tokens of a reasoning model's
    thinking part, which then do not count as `max_tokens`.
    """

    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    samples: int = 1
    top_p: float = 1.0
    thinking_budget: int | None = None
    reads = Completion

    def __repr__(self) -> str:
        """All fields, those added since the first version only if they are set: fingerprints of earlier runs stay the same."""
        shown = ("max_tokens", "stop", "temperature", "samples")
        added = [field.name for field in fields(self) if field.name not in shown and getattr(self, field.name) != field.default]
        return f"Generate({', '.join(f'{name}={getattr(self, name)!r}' for name in (*shown, *added))})"

    def __post_init__(self) -> None:
        for name, least in (("max_tokens", 0), ("samples", 1)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise AssayError(f"Generate({name}={getattr(self, name)!r:.40})", do=f"give an integer of at least {least}")
        if not isinstance(self.stop, tuple) or not all(is_text(text) and text for text in self.stop):
            raise AssayError(f"Generate(stop={self.stop!r:.60})", do="give a tuple of non-empty strings")
        if not is_number(self.temperature) or self.temperature < 0:
            raise AssayError(f"Generate(temperature={self.temperature!r:.40})", do="give a number of at least 0 (0: greedy)")
        if not is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise AssayError(f"Generate(top_p={self.top_p!r:.40})", do="give a number above 0 and at most 1 (1: all tokens)")
        budget = self.thinking_budget
        if budget is not None and (not isinstance(budget, int) or budget < 0):
            raise AssayError(f"Generate(thinking_budget={budget!r:.40})", do="give a number of tokens, or None")


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Score the log-likelihood of the first reference after the prompt; long texts in windows of the model's context length.

    `whole_last`: the last window of a long text begins earlier, so that it is as long as the others; what was scored is context (lm-eval).
    """

    whole_last: bool = field(default=False, repr=False)  # not in fingerprints, which are older than it
    reads = TextLogprob


@dataclass(frozen=True, slots=True)
class Regress:
    """Compute the expected value over graded answers: the texts in `answers` with the numbers in `values`."""

    answers: tuple[str, ...]
    values: tuple[float, ...]
    reads = ExpectedValue

    def __post_init__(self) -> None:
        if len(self.answers) != len(self.values):
            counts = f"Regress has {len(self.answers)} answers for {len(self.values)} values"
            raise AssayError(counts, do="give one value per answer")
        if not self.answers or not all(map(is_text, self.answers)) or not all(map(is_number, self.values)):
            raise AssayError("Regress needs answers, each with a finite value", do="give both, such as ('1', '2') and (1.0, 2.0)")


Ask = Choose | Loglikelihood | Generate | Perplexity | Regress


@dataclass(frozen=True, slots=True)
class Shots:
    """Which few-shot examples a prompt gets: one fixed set per (task, seed), unless the protocol requires another rule.

    "seeded": drawn from `split` with the random seed; "first": its first rows (MMLU); "balanced": by label frequency (HELM);
    "per_item": other items of the scored split, drawn for each item (BIG-bench); "source": the source puts them into its prompts (lm-eval).
    """

    count: int = 0
    split: str = "train"
    order: Literal["seeded", "first", "balanced", "per_item", "source"] = "seeded"


@dataclass(frozen=True, slots=True)
class Layout:
    """How instructions, few-shot examples, question and answer are joined.

    `instructions` come first, with their own trailing whitespace; `separator` follows every few-shot example. `joint` is put between a
    prompt and its answer, unless the prompt is empty or ends in whitespace, or a chat template separates them.

    `trim` (only for Generate): the spaces at the end of a prompt belong to the response. They are not sent, and spaces before the
    response do not count.
    """

    instructions: str = ""
    separator: str = "\n\n"
    joint: str = " "
    trim: bool = False

    def __post_init__(self) -> None:
        if not all(map(is_text, (self.instructions, self.separator, self.joint))):
            raise AssayError(f"has a part that is not a UTF-8 string: {self!r:.120}", do="give strings for the parts of Layout(...)")


@dataclass(frozen=True, slots=True)
class Worked:
    """A row written from the data card, with the exact prompt and gold answer that it must produce."""

    row: Row
    prompt: str
    answer: str


def is_name(text: object) -> bool:
    """Whether this is a valid task name: printable, at most 200 characters, no whitespace at its ends."""
    return isinstance(text, str) and 0 < len(text) <= 200 and text.isprintable() and text == text.strip()


@dataclass(frozen=True, slots=True)
class Variation:
    """Every scored item has several variants, which `make` returns, the original first. `of` is the name of the original task."""

    of: str
    make: Callable[[Doc], tuple[Doc, ...]]
    names: tuple[str, ...]
    """Names of the variants after the original; `Doc.meta["variant"]` numbers them from 1."""


@dataclass(frozen=True, slots=True)
class Task:
    """One benchmark under one protocol.

    `rows` is read by split; `doc` turns a row into a Doc; `ask` is what the model does with it; the first of `metrics` is the main
    one. `split` is the scored split (default: validation or test, whichever `rows` has). Increase `version` if the prompt changes.

    Raises AssayError if a metric cannot measure the output of `ask`.
    """

    name: str
    rows: Source
    doc: Callable[[Any], Doc]
    ask: Ask
    metrics: tuple[Metric[Any], ...]
    split: str = ""
    shots: Shots = Shots()
    layout: Layout = Layout()
    protocol: str = ""
    version: int = 1
    purpose: Literal["release", "smoke"] = "release"
    """Smoke tasks test the pipeline; their scores are never ranked and never pass a gate."""
    worked: tuple[Worked, ...] = ()
    varies: Variation | None = None
    about: str = ""
    licence: str = ""
    citation: str = ""
    notes: tuple[str, ...] = ()
    """How the task reads its data, where that was decided from the data. Stored and shown with its scores."""

    def __post_init__(self) -> None:
        for name, fits, wanted in (
            ("name", is_name(self.name), "a short printable string"),
            ("protocol", not self.protocol or is_name(self.protocol), "a short printable string"),
            ("split", isinstance(self.split, str), "a string"),
            ("rows", all(callable(getattr(self.rows, part, None)) for part in ("splits", "load", "at")), "a source, such as jsonl(...)"),
            ("doc", callable(self.doc), "a function from a row to a Doc"),
            ("ask", isinstance(self.ask, Ask), "Choose, Loglikelihood, Generate, Perplexity or Regress"),
            ("metrics", isinstance(self.metrics, tuple) and all(isinstance(each, Metric) for each in self.metrics), "a tuple of metrics"),
            ("shots", isinstance(self.shots, Shots), "Shots(...)"),
            ("layout", isinstance(self.layout, Layout), "Layout(...)"),
        ):
            if not fits:
                raise AssayError(
                    f"{name} is {getattr(self, name)!r:.60}, not {wanted}", where=ascii(self.name)[:60], do=f"fix Task({name}=...)"
                )
        if self.layout.trim and not isinstance(self.ask, Generate):
            what = f"Layout(trim=True) is for Generate, not for {type(self.ask).__name__}"
            raise AssayError(what, where=self.name, do="leave trim out: scored answers begin with the spaces at the end of the prompt")
        if not self.metrics:
            raise AssayError("a task needs at least one metric", where=self.name, do="add one, such as metrics=(accuracy,)")
        for metric in self.metrics:
            if metric.reads is not None and metric.reads is not self.ask.reads:
                raise AssayError(
                    f"metric {metric.name!r} measures {metric.reads.__name__}, "
                    f"but {type(self.ask).__name__} returns {self.ask.reads.__name__}",
                    where=self.name,
                    do="choose another metric, or another ask",
                )

    @property
    def full_name(self) -> str:
        """The task's name with its protocol, such as mmlu/anatomy@lm-eval."""
        return f"{self.name}@{self.protocol}" if self.protocol else self.name


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a total: a metric of a member task (by full name) and its weight."""

    task: str
    metric: str
    weight: float


@dataclass(frozen=True, slots=True)
class Total:
    """A weighted sum over member tasks. `by_size` multiplies each weight by the task's number of items, then normalises.

    A total is computed only if every term has a score; a missing task does not count as zero.
    """

    name: str
    terms: tuple[Term, ...]
    by_size: bool = False
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A part of a suite that counts as one where models are compared by mean win rate: the mean of its tasks' main metrics.

    `tasks` are full names, `group` names the part of the suite that the scenario belongs to.
    """

    name: str
    tasks: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """Tasks that are run and reported together, with their official totals. `scenarios`: what its mean win rate is taken over, if any."""

    name: str
    tasks: tuple[Task, ...]
    totals: tuple[Total, ...] = ()
    about: str = ""
    scenarios: tuple[Scenario, ...] = ()
