"""An engine in a child process scores with adapters, soft prompts and swapped weights as in this process.

Run: pytest tests/contracts/test_child.py
"""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from assay import AssayError
from assay.harness.engines import Settings
from assay.harness.engines.child import open_engine
from assay.harness.engines.hf.engine import open_engine as open_here
from assay.harness.engines.request import Failure, GenRequest, ScoreGroup, ScoreReply
from assay.harness.model.find import ModelRef

DICE = random.Random(0)
GROUPS = [
    ScoreGroup(tuple(DICE.choices(range(3, tiny_models.VOCABULARY), k=5)), ((7, 8), (9,), tuple(DICE.choices(range(3, 60), k=4))), True)
    for _ in range(6)
]
SETTINGS = Settings(device="cpu", budget=64 << 20)


def here(ref: ModelRef) -> dict[int, ScoreReply | Failure]:
    engine = open_here(ref, SETTINGS)
    try:
        return dict(engine.score(GROUPS))
    finally:
        engine.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make(tmp_path_factory.mktemp("tiny")).path


def close(one: dict[int, Any], other: dict[int, Any]) -> bool:
    """Whether all log-probabilities agree up to the rounding of another number of threads."""
    flat = [[value for index in sorted(each) for part in each[index].logprobs for value in part] for each in (one, other)]
    return len(flat[0]) == len(flat[1]) and flat[0] == pytest.approx(flat[1], abs=1e-5)


@pytest.mark.parametrize("kind", ["lora", "prompt"])
def test_an_adapter_scores_as_in_process(home: Path, tmp_path: Path, kind: str) -> None:
    peft = pytest.importorskip("peft")
    import torch
    import transformers

    made = {
        "lora": lambda: peft.LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"]),
        "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    }[kind]()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(home), made).save_pretrained(tmp_path)
    plain, tuned = tiny_models.refer(home), replace(tiny_models.refer(home), adapter=tmp_path)
    engine = open_engine(tuned, SETTINGS, "hf")
    try:
        found = dict(engine.score(GROUPS))
    finally:
        engine.close()
    assert close(found, here(tuned)) and not close(found, here(plain))


def test_swapped_weights_score_as_in_process_and_survive_a_restart(home: Path, tmp_path: Path) -> None:
    other = tiny_models.make(tmp_path / "other", seed=1)
    engine = open_engine(tiny_models.refer(home), SETTINGS, "hf")
    try:
        first = dict(engine.score(GROUPS))
        with pytest.raises(AssayError):
            engine.swap(tmp_path / "nowhere")
        assert close(dict(engine.score(GROUPS)), first), "a refused swap changes nothing"
        engine.swap(other.path)
        swapped = dict(engine.score(GROUPS))
        assert engine.process is not None
        os.kill(engine.process.inner.pid, signal.SIGKILL)
        assert close(dict(engine.score(GROUPS)), swapped) and close(swapped, here(other)) and not close(swapped, first)
        replies = dict(engine.generate([GenRequest((5, 6, 7), 4)]))
        assert engine.restarts == 1 and len(replies) == 1 and engine.describe()["process"] == "child"
        assert engine.stats.computed > 0 and engine.limits.vocabulary == tiny_models.VOCABULARY
    finally:
        engine.close()
