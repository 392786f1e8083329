"""The output of a model for one Doc, in the form that metrics read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """The scores of a Doc's choices.

    `loglikelihoods` are the summed natural-log probabilities (nats), one per choice; `tokens` the lengths of the choices in tokens;
    `priors` the same sums after a neutral context (only for `Choose(calibrate=...)`). `pick` is the index of the best choice
    after the task's normalisation, the first of equal ones; `tied` are the indices of all equal best ones, empty if there is one.
    Metrics get the mean of their statistics over `tied`, unless `first_wins`: then only `pick` counts.
    """

    loglikelihoods: tuple[float, ...]
    tokens: tuple[int, ...]
    pick: int
    priors: tuple[float, ...] = ()
    tied: tuple[int, ...] = ()
    first_wins: bool = False


@dataclass(frozen=True, slots=True)
class Loglikelihoods:
    """The summed natural-log probability (nats) of each of a Doc's choices after its context, and its length in tokens.

    `greedy`: whether greedy decoding would generate it; empty if it was not asked for.
    """

    sums: tuple[float, ...]
    tokens: tuple[int, ...]
    greedy: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """Generated text. `finish` is "stop" or "length"; `samples` has all samples if more than one was requested."""

    text: str
    finish: str = "stop"
    tokens: int = 0
    logprob: float = float("nan")
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TextLogprob:
    """Summed natural-log probability of a text (nats), with its length in tokens and in UTF-8 bytes."""

    logprob: float
    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ExpectedValue:
    """Expected value over graded answers, weighted by the softmax of their log-likelihoods."""

    value: float
    loglikelihoods: tuple[float, ...]


Output = ChoiceScores | Loglikelihoods | Completion | TextLogprob | ExpectedValue
