"""What a model said about one Doc, in the form that metrics read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """The ranking of a Doc's choices.

    `loglikelihoods` are summed natural-log probabilities, one per choice; `tokens` their lengths in tokens; `priors` the
    same sums after a neutral context (only for `Choose(calibrate=...)`). `pick` is the index that the task's
    normalisation prefers; the first wins a tie.
    """

    loglikelihoods: tuple[float, ...]
    tokens: tuple[int, ...]
    pick: int
    priors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """Generated text. `finish` is "stop" or "length"; `samples` holds every sample where more than one was asked for."""

    text: str
    finish: str = "stop"
    tokens: int = 0
    logprob: float = float("nan")
    samples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TextLogprob:
    """Summed natural-log probability of a text, with its length in tokens and in UTF-8 bytes."""

    logprob: float
    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ExpectedValue:
    """Expected value over graded answers under the softmax of their log-likelihoods."""

    value: float
    loglikelihoods: tuple[float, ...]


Output = ChoiceScores | Completion | TextLogprob | ExpectedValue
