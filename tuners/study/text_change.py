"""How far a tuned model moved from its base on neutral text: KL(base || tuned) and loss, with confidence intervals over texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from assay.harness.stats.distributions import t_quantile
from assay.tuners.study.trial import open_base, open_served
from assay.tuners.training.batches import Example
from assay.tuners.training.loss import by_length, kl_by_position, log_probabilities, loss_by_position


@dataclass(frozen=True, slots=True)
class TextChange:
    """Means per token in nats, each with its 95% confidence interval: KL(base || tuned), and the tuned model's loss minus the base's."""

    tokens: int
    texts: int
    kl: float
    kl_low: float
    kl_high: float
    loss: float
    loss_low: float
    loss_high: float

    def sentence(self) -> str:
        return (
            f"Neutral text ({self.texts} texts, {self.tokens:,} tokens): KL(base || tuned) {self.kl:.4f} [{self.kl_low:.4f}, "
            f"{self.kl_high:.4f}] nats per token, loss {self.loss:+.4f} [{self.loss_low:+.4f}, {self.loss_high:+.4f}] nats per token "
            "(lower is better)."
        )


def text_change(base: Path, tuned: tuple[Path, Path | None], examples: Sequence[Example]) -> TextChange:
    """Compares two models, loaded one after the other in fp32. `tuned`: a model folder, and an adapter or None."""
    one = log_probabilities(open_base(base), examples)
    two = log_probabilities(open_served(tuned), examples)
    sizes = [example.loss_tokens for example in by_length(examples)]
    kl = ratio(kl_by_position(one, two), sizes)
    loss = ratio(loss_by_position(two, examples) - loss_by_position(one, examples), sizes)
    return TextChange(sum(sizes), len(sizes), *kl, *loss)


def ratio(values: ArrayLike, sizes: Sequence[int]) -> tuple[float, float, float]:
    """The mean over positions with its 95% confidence interval over texts of these sizes (the ratio estimator's linearisation)."""
    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean())
    starts = np.cumsum([0, *sizes[:-1]])
    residuals = np.add.reduceat(found - mean, starts)
    count = len(sizes)
    if count < 2:
        return mean, -np.inf, np.inf
    error = float(np.sqrt(count / (count - 1) * np.square(residuals).sum())) / len(found)
    reach = float(t_quantile(0.975, count - 1)) * error
    return mean, mean - reach, mean + reach
