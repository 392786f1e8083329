"""A tiny model that was trained to think: its thought is stored apart, counted and limited, from the command line to the store.

Run: pytest tests/harness/run/test_thinking_run.py
"""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import place

from assay import AssayError, Plan, evaluate, read_run
from assay.harness.engines.request import GenRequest, Thinking
from assay.harness.run.evaluate import length_fault
from assay.harness.run.scoring.results import rescore
from assay.harness.store import Run
from tests.harness.prompt.chat_models import BEGUN, THINKING, make_chat_tokenizer

LONG = "0123456789" + string.ascii_lowercase
THOUGHTS = {"a": "it is a\nyes", "b": "it is b\nyes", "z": LONG}
OPEN, CLOSE = "<think>", "</think>"
TASK = """from assay import Doc, Generate, Task, exact_match, inline
ROWS = [{"letter": letter} for letter in "abz"]
TASKS = (Task("say", inline(test=ROWS), lambda row: Doc("say " + row["letter"], references=(row["letter"],), id=row["letter"]),
    Generate(24, ("\\n",)), (exact_match,)),)
"""


def response(letter: str) -> str:
    return f"{OPEN}\n{THOUGHTS[letter]}\n{CLOSE}\n\n{letter}<|im_end|>"


def train(folder: Path) -> Path:
    """A model of two small layers that thinks about each letter and says it, with and without thinking."""
    import torch
    import transformers

    make_chat_tokenizer(folder, THINKING, plain=(OPEN, CLOSE))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = []
    for letter, thought in THOUGHTS.items():
        chat = [{"role": "user", "content": f"say {letter}"}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        quick = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, enable_thinking=False)
        closed = f"{prompt}{OPEN}\n{thought[:8]}\n{CLOSE}\n\n"
        texts += [(prompt, response(letter)), (quick, f"{letter}<|im_end|>"), (closed, f"{letter}<|im_end|>")]
    rows = [(tokenizer(a)["input_ids"], tokenizer(b)["input_ids"]) for a, b in texts]
    width = max(len(a) + len(b) for a, b in rows)
    ids = torch.tensor([[*a, *b, *[0] * (width - len(a) - len(b))] for a, b in rows])
    labels = torch.tensor([[*[-100] * len(a), *b, *[-100] * (width - len(a) - len(b))] for a, b in rows])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is faster on one
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            bos_token_id=0,
            eos_token_id=0,
        )
        model = transformers.LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
        for _ in range(400):
            loss = model(input_ids=ids, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if loss.item() < 0.03:
                break
    torch.set_num_threads(threads)
    assert loss.item() < 0.05
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("thinker"))


def run_of(model: Path, folder: Path, **options: Any) -> Run:
    (task := folder / "say.py").write_text(TASK)
    plan = Plan(model=str(model), tasks=(str(task),), engine="hf", dtype="float32", chat=True, **options)
    return read_run(evaluate(plan, place(folder)))


def outputs(run: Run) -> dict[str, tuple[str, Mapping[str, Any], float | None]]:
    return {record.item: (record.status, record.output, record.correct) for record in run.records()}


def test_the_thought_is_stored_apart_and_a_cut_one_is_truncated(thinker: Path, tmp_path: Path) -> None:
    run = run_of(thinker, tmp_path)
    found = outputs(run)
    for letter in "ab":
        status, output, correct = found[letter]
        (thought,) = output["thoughts"]
        assert (status, output["text"], correct, thought["text"], thought["cut"]) == ("scored", letter, 1.0, THOUGHTS[letter], False)
        assert thought["tokens"] == 1 + 1 + len(THOUGHTS[letter]) + 1 + 1
    status, output, correct = found["z"]
    (thought,) = output["thoughts"]
    assert (status, output["text"], output["finish"], correct) == ("truncated", "", "length", 0.0)
    assert thought["cut"] and thought["tokens"] == 24 and thought["text"] == LONG[:22]
    summary = run.summary()
    seconds = sum(output["thoughts"][0]["seconds"] for _, output, _ in found.values())
    assert 0 < seconds < summary["seconds"]["engine"] and summary["thinking"]["seconds"] == pytest.approx(seconds, abs=1e-3)
    assert summary["thinking"] | {"seconds": 0} == {"responses": 3, "tokens": 2 * 15 + 24, "seconds": 0, "cut": 1}
    assert summary["statuses"]["truncated"] == 1
    assert rescore(run, place(tmp_path).access()) == summary["results"]


def test_a_budget_closes_the_thought_and_the_answer_follows(thinker: Path, tmp_path: Path) -> None:
    run = run_of(thinker, tmp_path, thinking_budget=10, max_tokens=4)
    found = outputs(run)
    assert {letter: (status, output["text"]) for letter, (status, output, _) in found.items()} == {
        letter: ("truncated", letter) for letter in "abz"
    }
    assert all(output["thoughts"][0]["tokens"] == 10 for _, output, _ in found.values())
    (result,) = run.summary()["results"]
    assert result["value"] == 1.0
    (facts,) = run.manifest["tasks"]
    assert facts["ask"] == "Generate(max_tokens=4, stop=('\\n',), temperature=0.0, samples=1, thinking_budget=10)"
    assert "thinking_budget:10" in result["signature"] and "max_tokens:4" in result["signature"]
    assert rescore(run, place(tmp_path).access()) == run.summary()["results"]


def test_the_template_turns_thinking_off(thinker: Path, tmp_path: Path) -> None:
    run = run_of(thinker, tmp_path, template_args=("enable_thinking=false",))
    found = outputs(run)
    assert {letter: (status, output["text"], "thoughts" in output) for letter, (status, output, _) in found.items()} == {
        letter: ("scored", letter, False) for letter in "abz"
    }
    assert "thinking" not in run.summary()


def test_a_template_that_begins_the_thought(thinker: Path, tmp_path: Path) -> None:
    model = shutil.copytree(thinker, tmp_path / "model")
    (model / "chat_template.jinja").write_text(BEGUN)
    run = run_of(model, tmp_path, max_tokens=80)
    found = outputs(run)
    assert {letter: output["text"] for letter, (_, output, _) in found.items()} == {letter: letter for letter in "abz"}
    assert found["z"][1]["thoughts"][0]["text"] == LONG


def test_thoughts_are_shown_by_the_command(thinker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    from assay.harness.cli import main

    (task := tmp_path / "say.py").write_text(TASK)
    monkeypatch.setenv("ASSAY_RESULTS", str(tmp_path / "results"))
    command = ["assay", "run", "--model", str(thinker), "--tasks", str(task), "--engine", "hf", "--chat"]
    for extra in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", [*command, *extra])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        printed = capsys.readouterr().out
        if extra:
            assert json.loads(printed)["thinking"] | {"seconds": 0} == {"responses": 3, "tokens": 54, "seconds": 0, "cut": 1}
        else:
            assert "1 of them ran into the limit" in " ".join(printed.split())


def test_options_for_text_are_refused_where_no_task_generates(tmp_path: Path) -> None:
    from fakes import make_model, write_task

    model = make_model(tmp_path / "model")
    with pytest.raises(AssayError, match="generates text"):
        evaluate(Plan(model=str(model), tasks=(str(write_task(tmp_path)),), max_tokens=3), place(tmp_path))
    (task := tmp_path / "say.py").write_text(TASK)
    with pytest.raises(AssayError, match="equal at temperature 0"):
        evaluate(Plan(model=str(model), tasks=(str(task),), samples=3), place(tmp_path))
    with pytest.raises(AssayError, match="top_p"):
        evaluate(Plan(model=str(model), tasks=(str(task),), top_p=0.0), place(tmp_path))


def test_an_engine_must_have_room_for_the_thinking_budget_too() -> None:
    request = GenRequest((1,) * 10, 20, thinking=Thinking(OPEN, CLOSE, (), budget=30))
    items = [SimpleNamespace(requests=(request,))]
    prepared: Any = SimpleNamespace(engine="hf", tasks=[SimpleNamespace(items=items)])
    engines: list[Any] = [SimpleNamespace(limits=SimpleNamespace(positions=positions)) for positions in (59, 60)]
    assert "the longest request needs 60 tokens" in length_fault(prepared, engines[0]) and not length_fault(prepared, engines[1])
