"""A callback for transformers' and TRL's Trainer: every saved checkpoint is gated against the base, and training can stop where it forgot.

    SFTTrainer(..., callbacks=[ForgettingCallback("base/", retain=("glue/sst2", "mmlu"), margin=2.0)])

axolotl takes it through a plugin whose `add_callbacks_post_trainer` returns it. The callback scores the files of the checkpoint, with the
same pipeline as `assay run`, so it needs memory for a second copy of the model.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from assay import AssayError
from assay.harness.decide.stored_gate import Gate
from assay.harness.reports.formatting import aggregate_line
from assay.harness.run.stages import Surroundings, surroundings
from assay.tuners.study.checkpoint_gate import RETENTION, Pair, gate_plans, policy_of


class ForgettingCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Scores every saved checkpoint on `retain` and gates it against `base`, the model that is trained.

    A checkpoint "regressed" if it lost more than nothing in the aggregate, and not for certain less than `margin` points, or more than
    `task_margin` on a task; then training stops, unless `stop` is False. The verdicts are in `gates` and in the Trainer's log history.
    """

    def __init__(
        self,
        base: str,
        retain: tuple[str, ...] = RETENTION,
        *,
        margin: float = 1.0,
        task_margin: float = 3.0,
        limit: int | None = None,
        stop: bool = True,
        place: Surroundings | None = None,
    ) -> None:
        self.base, self.retain, self.limit, self.stop = base, retain, limit, stop
        self.policy, self.place = policy_of(margin, task_margin), place or surroundings()
        self.gates: list[tuple[int, Gate]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if args.world_size > 1:
            raise AssayError(
                f"the callback runs in one process, the training in {args.world_size}",
                do="use assay watch beside the training, with --gate",
            )

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        import torch

        checkpoint = Path(args.output_dir).resolve() / f"checkpoint-{state.global_step}"
        with torch.random.fork_rng():  # the training continues with the same random numbers
            found = gate_plans(Pair(self.base, str(checkpoint)).plans(self.retain, self.limit), self.policy, self.place)
        self.gates.append((state.global_step, found))
        verdict, change = found.decision.verdict, found.decision.delta
        state.log_history.append({"step": state.global_step, "forgetting/verdict": verdict, "forgetting/change_points": change})
        sys.stderr.write(f"step {state.global_step}: {verdict}. {aggregate_line(found.decision)}\n")
        if verdict == "regressed" and self.stop:
            control.should_training_stop = True
