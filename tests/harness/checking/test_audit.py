"""An audit passes an honest run and fails a forged one. Run: pytest tests/harness/test_audit.py"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import make_model, place, write_task

from assay import AssayError, Plan, evaluate, read_run
from assay.harness.checking.audit import audit
from assay.harness.cli import main
from assay.harness.engines import Engine, Settings
from assay.harness.engines.hf.engine import open_engine as open_hf
from assay.harness.engines.request import ScoreGroup, ScoreReply
from assay.harness.engines.scripted import Answer, Scripted, hashed
from assay.harness.errors import NotComparable
from assay.harness.model.find import ModelRef
from assay.harness.run.dispatch import NoProgress
from assay.harness.run.evaluate import OpenEngine
from assay.harness.store import Writer


def opening(answer: Answer) -> OpenEngine:
    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        return Scripted(answer)

    return opener


def shifted(nats: float) -> Answer:
    """The same answers, every token off by some nats."""

    def answer(request: object) -> object:
        reply = hashed(3)(request)  # type: ignore[arg-type]
        assert isinstance(reply, ScoreReply)
        return replace(reply, logprobs=tuple(tuple(value - nats for value in values) for values in reply.logprobs))

    return answer  # type: ignore[return-value]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    plan = Plan(model=str(make_model(tmp_path / "model")), tasks=(str(write_task(tmp_path, 100)),), engine="scripted")
    return evaluate(plan, place(tmp_path), opener=opening(hashed(3)))


def test_an_honest_run_passes_on_a_seeded_part(bundle: Path, tmp_path: Path) -> None:
    asked: list[Scripted] = []

    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        asked.append(Scripted(hashed(3)))
        return asked[-1]

    run = read_run(bundle)
    found = audit(run, place(tmp_path), NoProgress(), opener=opener)
    assert found.passed and (found.items, found.of, found.drift) == (20, 100, 0.0) and asked[0].calls.total() == 20
    again = audit(run, place(tmp_path), NoProgress(), opener=opener)
    other = audit(run, place(tmp_path), NoProgress(), share=0.5, seed=1, opener=opener)
    assert asked[0].calls == asked[1].calls != asked[2].calls and again == found and other.items == 50
    with pytest.raises(AssayError, match="share 0 is out of range"):
        audit(run, place(tmp_path), NoProgress(), share=0, opener=opener)


def test_log_probabilities_that_moved_fail(bundle: Path, tmp_path: Path) -> None:
    found = audit(read_run(bundle), place(tmp_path), NoProgress(), opener=opening(shifted(0.5)))
    assert not found.passed and found.drift == pytest.approx(0.5) and len(found.differences) == 20


def test_another_choice_fails_unless_it_is_a_tie(bundle: Path, tmp_path: Path) -> None:
    def turned(request: object) -> object:
        assert isinstance(request, ScoreGroup)
        reply = hashed(3)(request)
        assert isinstance(reply, ScoreReply)
        return ScoreReply(reply.logprobs[::-1])

    assert not audit(read_run(bundle), place(tmp_path), NoProgress(), opener=opening(turned)).passed  # type: ignore[arg-type]


def test_forged_statistics_fail_though_every_hash_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = Writer.append

    def flattering(writer: Writer, records: list[object]) -> None:
        append(writer, [replace(each, stats={"accuracy": (1.0,)}, correct=1.0) for each in records])  # type: ignore[type-var]

    plan = Plan(model=str(make_model(tmp_path / "model")), tasks=(str(write_task(tmp_path, 100)),), engine="scripted")
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "append", flattering)
        bundle = evaluate(plan, place(tmp_path), opener=opening(hashed(3)))
    found = audit(read_run(bundle), place(tmp_path), NoProgress(), opener=opening(hashed(3)))
    assert not found.passed and "statistics" in found.differences[0].what


def test_other_weights_are_not_comparable(bundle: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "model", seed=5)
    with pytest.raises(NotComparable, match="changed since this run"):
        audit(read_run(bundle), place(tmp_path), NoProgress(), opener=opening(hashed(3)))


def test_the_verb_audits_a_real_run_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(model=str(make_model(tmp_path / "model")), tasks=(str(write_task(tmp_path, 30)),), engine="hf", device="cpu")
    bundle = evaluate(plan, place(tmp_path))
    monkeypatch.setattr(sys, "argv", ["assay", "audit", bundle.name, "--results", str(tmp_path / "results"), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and printed["passed"] and printed["items"] == 20 and printed["drift"] < 1e-4


def test_a_forged_bundle_is_told_by_the_exit_code(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted answers of this run are not those of its model: a forgery, and `assay audit` says so."""
    assert hashlib.sha256((bundle / "summary.json").read_bytes()).hexdigest() in (bundle / "DONE").read_text()
    monkeypatch.setattr(sys, "argv", ["assay", "audit", bundle.name, "--results", str(tmp_path / "results")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 14


def test_a_run_whose_adapter_was_never_applied_fails(tmp_path: Path) -> None:
    """The adapter's name over the scores of its base: the audit loads the adapter as peft does."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    base = make_model(tmp_path / "model")
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj", "down_proj"])
    peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(tmp_path / "adapter")
    plan = Plan(model=str(base), tasks=(str(write_task(tmp_path, 30)),), engine="hf", device="cpu", adapter=str(tmp_path / "adapter"))

    def without_adapter(name: str, ref: ModelRef, settings: Settings) -> Engine:
        return open_hf(replace(ref, adapter=None, checkpoint=None), settings)

    honest = evaluate(plan, place(tmp_path))
    forged = evaluate(plan, place(tmp_path), opener=without_adapter)
    assert audit(read_run(honest), place(tmp_path), NoProgress()).passed
    found = audit(read_run(forged), place(tmp_path), NoProgress())
    assert not found.passed and found.drift > found.tolerance
