"""`assay forget` and the Trainer's callback: a model that lost what its base could do is found, and one that did not passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer

from assay import ModelRef
from assay.harness.run.stages import surroundings
from assay.tuners import toy
from assay.tuners.callback import ForgettingCallback
from assay.tuners.commands import forget
from assay.tuners.methods import find_method
from assay.tuners.study.text_change import ratio, text_change
from assay.tuners.study.trial import open_base, open_served
from assay.tuners.training.batches import Example, plan_steps
from assay.tuners.training.loss import kl_of, log_probabilities, loss_of
from assay.tuners.training.train import Recipe, train


@pytest.fixture
def known(base: ModelRef, tmp_path: Path) -> str:
    """A task of 200 items on which the untrained base is always right: gold is what it prefers."""
    model, rows = open_base(base.path), []
    for row in list(toy.rows("first", "test")):
        ids = torch.tensor([toy.encode({**row, "gold": 0}).ids[:-1]])
        logits = model(input_ids=ids).logits[0, -1, [toy.VOCABULARY.index(choice) for choice in row["choices"]]]
        rows.append({"prompt": row["prompt"], "choices": list(row["choices"]), "answer_index": int(logits.argmax())})
    path = tmp_path / "known.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run_forget(*words: str) -> int:
    app = typer.Typer()
    app.command()(forget)
    return typer.main.get_command(app).main([*words, "--json"], standalone_mode=False) or 0


def lora(base: ModelRef, folder: Path, lr: float) -> Path:
    trainable = find_method("lora").begin(open_base(base.path), seed=0, options={"rank": 4})
    pool = [toy.encode(row) for row in list(toy.rows("mood", "train"))[:64]]
    train(trainable, plan_steps(pool, loss_tokens=128, batch=8, seed=0), Recipe(lr=lr))
    trainable.save(folder)
    return folder


def test_forgetting_is_found_paired_and_none_passes(
    base: ModelRef, known: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ASSAY_RESULTS", str(tmp_path / "results"))
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"first {a} {b} = {a}" for a in "abcde" for b in "abcde"))
    common = ("--retain", known, "--text", str(text), "--margin", "2")  # 200 items cannot exclude a loss of 1 point
    codes, found = [], []
    for name, lr in (("gentle", 1e-7), ("harsh", 0.3)):
        codes.append(run_forget(str(base.path), str(lora(base, tmp_path / name, lr)), *common))
        found.append(json.loads(capsys.readouterr().out))
    assert codes == [0, 10] and [each["verdict"] for each in found] == ["pass", "regressed"]
    assert found[0]["text"]["kl"] < 1e-6 < 1e-3 < found[1]["text"]["kl"]
    assert found[1]["text"]["kl_low"] < found[1]["text"]["kl"] < found[1]["text"]["kl_high"] and found[1]["text"]["texts"] == 25
    runs = list((tmp_path / "results" / "runs").iterdir())
    assert len(runs) == 3, "the base is scored once"


def test_the_change_on_text_has_the_mean_of_all_tokens_and_an_interval_over_texts(base: ModelRef, tmp_path: Path) -> None:
    adapter = lora(base, tmp_path / "adapter", 0.01)
    examples = [Example((1, *range(4, 8 + n)), 1) for n in range(6)]
    found = text_change(base.path, (base.path, adapter), examples)
    one, two = (log_probabilities(model, examples) for model in (open_base(base.path), open_served((base.path, adapter))))
    assert found.kl == pytest.approx(kl_of(one, two), rel=1e-4) and found.tokens == len(one)
    assert found.loss == pytest.approx(loss_of(two, examples) - loss_of(one, examples), abs=1e-6)
    random, hits = np.random.default_rng(0), 0
    for _ in range(400):
        sizes = random.integers(5, 40, 30)
        values = np.concatenate([1 + 0.3 * random.standard_normal() + random.standard_normal(size) for size in sizes])
        _, low, high = ratio(values, sizes.tolist())
        hits += low <= 1 <= high
    assert 0.92 <= hits / 400 <= 0.98


@pytest.mark.parametrize(("lr", "verdicts"), [(1e-9, ["pass", "pass"]), (0.1, ["regressed"])])
def test_training_stops_where_a_checkpoint_forgot(base: ModelRef, known: str, tmp_path: Path, lr: float, verdicts: list[str]) -> None:
    from transformers import AutoTokenizer, Trainer, TrainingArguments

    place = surroundings({"ASSAY_RESULTS": str(tmp_path / "results"), "ASSAY_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    callback = ForgettingCallback(str(base.path), (known,), margin=2, place=place)
    rows: list[Any] = [
        {"input_ids": list(ids), "labels": list(ids)} for ids in (toy.encode(r).ids for r in list(toy.rows("mood", "train"))[:24])
    ]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=4, save_steps=2, per_device_train_batch_size=4, learning_rate=lr, report_to=[],
        use_cpu=True, disable_tqdm=True, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = Trainer(
        model=open_base(base.path), args=arguments, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(str(base.path)),
        callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    assert [gate.decision.verdict for _, gate in callback.gates] == verdicts
    assert trainer.state.global_step == 2 * len(verdicts)
    assert [entry["forgetting/verdict"] for entry in trainer.state.log_history if "forgetting/verdict" in entry] == verdicts
