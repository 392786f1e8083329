"""The signature of a result names what its number depends on. Run: pytest tests/harness/run/test_signature.py"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from fakes import make_model, place, save_lora, write_task

from assay import Plan, evaluate, read_run
from assay.harness.decide.compare import compare, mismatches, side_of
from assay.harness.engines import Engine, Settings
from assay.harness.engines.scripted import Scripted, hashed
from assay.harness.errors import NotComparable
from assay.harness.model.find import ModelRef, find_model
from assay.harness.reports.results import settings_line
from assay.harness.run.scoring.signature import NOT_IN_SIGNATURE, plan_settings, run_settings
from assay.harness.run.scoring.verify import verify
from assay.harness.store import Run

TEMPLATE = "{% for turn in messages %}<{{ turn.role }}> {{ turn.content }}{% endfor %}{% if add_generation_prompt %}<bot> {% endif %}"
OTHER: dict[type, Any] = {int: 7, float: 0.5, str: "2026-02-02", bool: True, tuple: ("a=1",)}


def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
    return Scripted(hashed(3))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = make_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def score(model: Path, tmp_path: Path, **options: Any) -> Run:
    plan = Plan(model=str(model), tasks=(str(write_task(tmp_path)),), engine="scripted")
    return read_run(evaluate(replace(plan, **options), place(tmp_path), opener=opener))


def signature(run: Run) -> str:
    return str(run.summary()["results"][0]["signature"])


def other_value(name: str, default: Any) -> Any:
    kinds = {"limit": int, "max_tokens": int, "samples": int, "thinking_budget": int, "temperature": float, "top_p": float, "stop": tuple}
    if default is None:
        return OTHER[kinds.get(name, int)]
    return not default if isinstance(default, bool) else OTHER[type(default)]


@pytest.mark.parametrize("field", [each for each in fields(Plan) if each.name not in NOT_IN_SIGNATURE], ids=lambda each: each.name)
def test_every_option_that_changes_scores_is_in_the_signature(field: Any) -> None:
    plan = Plan(model="m", tasks=("t",), chat=True).as_json()
    assert plan_settings(plan) == {"seed": "0"}
    changed = plan_settings({**plan, field.name: other_value(field.name, field.default)})
    assert field.name in changed and changed != plan_settings(plan)


def test_chat_seed_and_limit_are_named(model: Path, tmp_path: Path) -> None:
    plain, chat = score(model, tmp_path), score(model, tmp_path, chat=True)
    seeded, limited = score(model, tmp_path, seed=5), score(model, tmp_path, limit=10)
    assert "|seed:0|dtype:" in signature(plain) and "chat:" not in signature(plain)
    assert "|chat:" in signature(chat) and "|seed:5|" in signature(seeded) and "|limit:10|" in signature(limited)
    assert len({signature(run) for run in (plain, chat, seeded, limited)}) == 4
    assert settings_line(plain.manifest) == "" and settings_line(chat.manifest).startswith("chat template ")
    system = score(model, tmp_path, chat=True, system="Answer with one number, and with nothing else at all.")
    assert "|system:#" in signature(system) and "system prompt #" in settings_line(system.manifest)


def test_another_template_is_another_signature(model: Path, tmp_path: Path) -> None:
    one = score(model, tmp_path, chat=True)
    (model / "chat_template.jinja").write_text(TEMPLATE.replace("<bot>", "<assistant>"))
    assert signature(score(model, tmp_path, chat=True)) != signature(one)


def test_runs_with_one_signature_are_comparable_and_others_name_the_setting(model: Path, tmp_path: Path) -> None:
    access = place(tmp_path).access()
    one, again, chat = (side_of(score(model, tmp_path, chat=chat), access) for chat in (False, False, True))
    assert compare(one, again).rows
    with pytest.raises(NotComparable, match="chat template is not set in the baseline, '"):
        compare(one, chat)
    assert [each.field for each in mismatches(one, chat, ["sums"])] == ["chat", "fingerprint"]


def test_a_setting_that_changed_nothing_is_a_note(model: Path, tmp_path: Path) -> None:
    access = place(tmp_path).access()
    one, two = (side_of(score(model, tmp_path, seed=seed), access) for seed in (0, 5))
    assert any(note.startswith("seed is 0 in the baseline and 5 in the candidate") for note in compare(one, two).notes)


def test_adapter_and_quantisation_are_named(model: Path, tmp_path: Path) -> None:
    task = (str(write_task(tmp_path)),)
    plan = Plan(model=str(model), tasks=task, engine="scripted")
    adapted = find_model(str(model), adapter=save_lora(tmp_path / "lora"), cache=tmp_path, offline=True)
    assert run_settings(plan, adapted, "")["adapter"].startswith("lora ")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}}))
    four = run_settings(plan, find_model(str(model), cache=tmp_path, offline=True), "")["quantization"]
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 8}}))
    eight = run_settings(plan, find_model(str(model), cache=tmp_path, offline=True), "")["quantization"]
    assert four.startswith("gptq ") and eight.startswith("gptq ") and four != eight


def test_the_rule_for_blank_references_is_in_the_signature_of_tasks_that_have_them(model: Path, tmp_path: Path) -> None:
    """Earlier versions scored them otherwise and named the scorer "strip|best-reference"."""

    def run_of(*references: str, **options: Any) -> Run:
        rows = [{"id": n, "prompt": f"Question {n}", "reference": text} for n, text in enumerate(references)]
        (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)))
        plan = Plan(model=str(model), tasks=(str(tmp_path / "answers.jsonl"),), engine="scripted", **options)
        return read_run(evaluate(plan, place(tmp_path), opener=opener))

    plain, blank = run_of("a", "b", "c", "d"), run_of("a", "b", "c", "")
    assert plain.manifest["tasks"][0]["metrics"] == ["exact_match strip|best-reference"]
    assert blank.manifest["tasks"][0]["metrics"] == ["exact_match strip|best-reference|blank:equal"]
    assert "|metric:exact_match[strip,best-reference]|" in signature(plain)
    assert "|metric:exact_match[strip,best-reference,blank:equal]|" in signature(blank)
    difference, access = verify(place(tmp_path).access()), place(tmp_path).access()
    assert compare(side_of(blank, access), side_of(blank, access)).rows
    assert not any(map(difference, (plain, blank, run_of("a", "b", "c", "", shard="1/2"))))
