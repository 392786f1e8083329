"""Runs of a served model against a small faulty server. Run: pytest tests/harness/run/test_served_runs.py"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import make_model, place, write_task

from assay import AssayError, Plan, evaluate, read_run
from assay.harness.checking.audit import audit
from assay.harness.checking.rerun import rerun
from assay.harness.decide.early_stopping import gate_early, plan_like
from assay.harness.decide.policy import Policy
from assay.harness.decide.stored_gate import gate_stored
from assay.harness.errors import Incomplete, Invalid, NotComparable
from assay.harness.files.places import surroundings
from assay.harness.prompt.served import NAMED
from assay.harness.reports.results import notes
from assay.harness.run.dispatch import NoProgress
from assay.harness.run.evaluate import resume
from assay.harness.run.explain import explain
from assay.harness.store import check
from tests.faulty_server import State, serving

pytest.importorskip("openai")
KEY = "a-key-of-no-known-form"

GENERATE = '''"""Say yes."""
from assay import Doc, Generate, Task, exact_match, inline

TASKS = (
    Task(
        name="yes",
        rows=inline(test=[{"n": n} for n in range(12)]),
        doc=lambda row: Doc(f"Say yes {row['n']}:", references=("yes",)),
        ask=Generate(max_tokens=8, stop=("\\n",)),
        metrics=(exact_match,),
    ),
)
'''


def plan_of(state: State, tmp_path: Path, **options: object) -> Plan:
    return replace(Plan(model=state.address, tasks=(str(write_task(tmp_path, 12)),), batch=2), **options)  # type: ignore[arg-type]


def generating(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "yes.py").write_text(GENERATE)
    return (str(tmp_path / "yes.py"),)


def test_a_run_is_marked_as_not_verified_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    # the made-up error message holds the key
    with serving(faults={3: "400"}) as state, pytest.raises(Incomplete, match="1 items failed"):
        evaluate(plan_of(state, tmp_path), place(tmp_path))
    with serving() as state:
        run = read_run(evaluate(plan_of(state, tmp_path), place(tmp_path)))
        model = run.manifest["model"]
        assert run.status == "complete" and run.manifest["engine"]["name"] == "served" and not check(tmp_path / "results")
        assert model["digest"].startswith("served-") and model["name"] == f"tiny@{state.address[7:-3]}" and model["parameters"] is None
        assert model["served"]["prompts"] == "text" and model["served"]["reported"]["max_model_len"] == 512
        assert "weights not verified" in "".join(notes(run.manifest, run.summary()["results"]))
        assert run.summary()["engine"]["prompts"] == "text; the server tokenises"
        tokens = run.summary()["tokens"]
        assert tokens["computed"] > 0 and tokens["logical"] == tokens["computed"] + tokens["cached"]
        assert "prompts:text" in run.summary()["results"][0]["signature"]
        assert not [file for file in (tmp_path / "results").rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
        with pytest.raises(AssayError, match="only the server has the weights"):
            audit(run, place(tmp_path), NoProgress())
        evaluate(plan_of(state, tmp_path), place(tmp_path))
        with pytest.raises(NotComparable, match=r"weights not verified.*--allow-unverified"):
            gate_stored(tmp_path / "results", model["name"], run.id, Policy(), surroundings().access(True))
        policy = Policy(allow_unverified=True)
        assert gate_stored(tmp_path / "results", model["name"], run.id, policy, surroundings().access(True)).decision.verdict


def test_a_run_with_a_tokenizer_sends_its_token_ids(tmp_path: Path) -> None:
    tokenizer = make_model(tmp_path / "model")
    with serving() as state:
        # the made-up server counts words, so it is told not to report how many tokens a text has
        state.faults = {2: "400", 26: "400"}
        plan = plan_of(state, tmp_path, tokenizer=str(tokenizer))
        with pytest.raises(AssayError, match=r"the tokenizer is not the server's: it makes \d+ tokens of a test text, the server \d+"):
            evaluate(replace(plan, batch=1), place(tmp_path))
        assert all(isinstance(body["prompt"], list) for body in state.bodies[:1]) and isinstance(state.bodies[-1]["prompt"], str)


def test_an_interrupted_run_asks_for_nothing_twice(tmp_path: Path) -> None:
    with serving() as state:
        plan = plan_of(state, tmp_path, tasks=generating(tmp_path), batch=1)
        whole = read_run(evaluate(plan, place(tmp_path / "whole")))
        probes = len(state.bodies) - 12
        state.bodies.clear()
        state.faults = {probes + 6: "401"}
        with pytest.raises(Incomplete, match="refuses the key") as error:
            evaluate(plan, place(tmp_path))
        run = next((tmp_path / "results" / "runs").iterdir())
        assert f"assay resume {run.name}" in str(error.value) and sum(1 for _ in read_run(run).records()) == 6
        state.faults = {}
        resumed = read_run(resume(run, place(tmp_path)))
        sent = Counter(json.dumps(body["prompt"]) for body in state.bodies if body["max_tokens"] == 8)
        assert sorted(sent.values()) == [1] * 11 + [2], "only the refused request was sent again"
        assert resumed.summary()["results"] == whole.summary()["results"]


def test_a_copied_run_sends_nothing_to_a_server_that_the_user_has_not_named(tmp_path: Path) -> None:
    with serving(faults={3: "401"}) as state:
        with pytest.raises(Incomplete):
            evaluate(plan_of(state, tmp_path), place(tmp_path))
        (run,) = (tmp_path / "results" / "runs").iterdir()
        sent = len(state.bodies)
        other = replace(place(tmp_path), cache=tmp_path / "another-machine")
        with pytest.raises(AssayError, match=r"never named on this machine.*assay run --model http"):
            resume(run, other)
        assert len(state.bodies) == sent
        assert read_run(resume(run, place(tmp_path))).status == "complete"


def test_a_rerun_of_a_copied_run_sends_nothing_to_a_server_that_the_user_has_not_named(tmp_path: Path) -> None:
    with serving() as state:
        run, named = evaluate(plan_of(state, tmp_path), place(tmp_path)), place(tmp_path).cache / NAMED
        sent, known = len(state.bodies), named.read_text()
        named.unlink()
        with pytest.raises(AssayError, match="never named on this machine"):
            rerun(run, place(tmp_path))
        assert len(state.bodies) == sent and not named.exists()
        named.write_text(known)
        assert rerun(run, place(tmp_path)).reproduced


def test_a_rerun_whose_texts_changed_without_log_probabilities_is_not_reproduced(tmp_path: Path) -> None:
    with serving(owner="other") as state:
        run = evaluate(plan_of(state, tmp_path, tasks=generating(tmp_path), chat=True), place(tmp_path))
        assert rerun(run, place(tmp_path)).reproduced
        state.answer = lambda prompt: " no"
        found = rerun(run, place(tmp_path))
        assert len(found.changed) == len(found.unexplained) == 12 and not found.moved and not found.reproduced


def test_the_address_of_an_early_gate_is_named_by_its_command_line(tmp_path: Path) -> None:
    with serving() as state:
        base = read_run(evaluate(plan_of(state, tmp_path), place(tmp_path)))
        (place(tmp_path).cache / NAMED).unlink()
        found = gate_early(plan_like(base, state.address), base, Policy(allow_unverified=True), place(tmp_path))
        assert found.planned == 12


def test_a_chat_run_leaves_the_template_to_the_server(tmp_path: Path) -> None:
    with serving(owner="other") as state:
        run = read_run(evaluate(plan_of(state, tmp_path, tasks=generating(tmp_path), chat=True), place(tmp_path)))
        assert run.summary()["results"][0]["value"] == 1 and run.manifest["model"]["served"]["prompts"] == "chat"
        assert state.bodies[-1]["messages"][-1]["role"] == "user" and "prompt" not in state.bodies[-1]
        with pytest.raises(AssayError, match="cannot be read from a chat"):
            evaluate(plan_of(state, tmp_path, chat=True), place(tmp_path / "none"))
        assert not (tmp_path / "none" / "results" / "runs").exists(), "nothing was written"


def test_what_the_server_cannot_do_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with serving(ways=("chat",)) as state:
        with pytest.raises(AssayError, match="returns no log-probabilities of a prompt"):
            evaluate(plan_of(state, tmp_path), place(tmp_path))
        with pytest.raises(AssayError, match=r"does not know this model or this kind of request.*check the server"):
            evaluate(plan_of(state, tmp_path, tasks=generating(tmp_path)), place(tmp_path))
    assert not (tmp_path / "results" / "runs").exists()


def test_the_name_on_the_server(tmp_path: Path) -> None:
    with serving(names=("large", "small")) as state:
        with pytest.raises(AssayError, match=r"serves 2 models, which one\?.*--served-name large"):
            evaluate(plan_of(state, tmp_path), place(tmp_path))
        with pytest.raises(AssayError, match=r"does not serve 'smal'.*--served-name small"):
            evaluate(plan_of(state, tmp_path, served_name="smal"), place(tmp_path))
        read_run(evaluate(plan_of(state, tmp_path, served_name="small"), place(tmp_path)))
        assert {body["model"] for body in state.bodies} == {"small"}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"dtype": "float16"}, "--dtype"),
        ({"tensor_parallel": 2}, "--tensor-parallel"),
        ({"data_parallel": 2}, "--data-parallel"),
        ({"engine_args": ("max_model_len=5",)}, "--engine-arg"),
        ({"repeat_engine": "hf"}, "--repeat-engine"),
        ({"adapter": "adapter"}, "--lora-modules"),
        ({"engine": "hf"}, "needs engine served"),
        ({"tokenizer": "nowhere"}, "nowhere"),
    ],
)
def test_options_that_only_the_server_can_apply_are_refused(options: dict[str, object], what: str, tmp_path: Path) -> None:
    with serving() as state, pytest.raises(AssayError, match=what):
        evaluate(plan_of(state, tmp_path, **options), place(tmp_path))


def test_options_of_served_models_need_an_address(tmp_path: Path) -> None:
    plan = Plan(model=str(make_model(tmp_path / "model")), tasks=(str(write_task(tmp_path, 12)),), engine="scripted")
    for options in ({"served_name": "x"}, {"tokenizer": "x"}):
        with pytest.raises(AssayError, match="only served models"):
            evaluate(replace(plan, **options), place(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(AssayError, match="needs the address of a server"):
        evaluate(replace(plan, engine="served"), place(tmp_path))


def test_another_model_behind_the_server_ends_the_run(tmp_path: Path) -> None:
    with serving(answer=lambda _: " yes") as state:

        def answer(_: str) -> str:
            state.owner = "another"
            return " yes"

        state.answer = answer
        with pytest.raises(Invalid, match="serves another model"):
            evaluate(plan_of(state, tmp_path, tasks=generating(tmp_path)), place(tmp_path))


def test_a_plan_is_explained_without_a_request_for_a_completion(tmp_path: Path) -> None:
    with serving() as state:
        found = explain(plan_of(state, tmp_path), place(tmp_path), NoProgress())
        assert found.engine == "served" and sum(cost.items for cost in found.tasks) == 12 and not state.bodies
