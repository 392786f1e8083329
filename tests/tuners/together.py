"""A short training run for one or several processes: `python -m torch.distributed.run ... -m tests.tuners.together`."""

from __future__ import annotations

from tests.tuners.tiny import tiny_examples, tiny_llama
from tuners.batches import plan_steps
from tuners.methods import find_method
from tuners.train import Recipe, train


def together() -> tuple[float, ...]:
    """Losses by step, and the sum of the trained values at the end."""
    steps = plan_steps(tiny_examples(40), loss_tokens=55, batch=4, seed=0)
    trainable = find_method("lora").begin(tiny_llama(), options={"rank": 4})
    done = train(trainable, steps, Recipe(lr=1e-2, micro=1))
    return (*done.losses, sum(value.detach().double().sum().item() for value in trainable.trained.values()))


if __name__ == "__main__":
    from accelerate import PartialState

    found, state = together(), PartialState()
    if state.is_main_process:
        print(state.num_processes, *found)
    state.destroy_process_group()
