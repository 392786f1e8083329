"""A user's own file of examples: every column form, a split that does not depend on the file's order, and what is trained on."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from assay import AssayError, ModelRef
from assay.harness.run.stages import Tokenizer, open_tokenizer
from assay.tuners.training.batches import Example, Limit, plan_steps
from assay.tuners.training.data import cut_examples, find_tasks, read_docs, task_examples
from assay.tuners.training.own_data import write_own_task
from tests.tuners.test_study import ACCESS
from tests.tuners.test_wrong_use import tune

TEMPLATE = (
    "{% for each in messages %}<s> {{ each.content }} {% if each.role == 'assistant' %}</s> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}good {% endif %}"
)


@pytest.fixture(scope="module")
def chatty(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatty") / "toy"
    shutil.copytree(toy_folder, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sums(count: int) -> list[dict[str, Any]]:
    """Different prompts, sorted by their label."""
    draw = random.Random(0)
    prompts = [f"max {a} {b} {c}" for a in range(10) for b in range(10) for c in range(10)]
    rows = [{"prompt": f"{prompt} =", "completion": f" {max(prompt.split()[1:])}"} for prompt in draw.sample(prompts, count)]
    return sorted(rows, key=lambda row: row["completion"])


def examples_of(task_file: Path, split: str, tokenizer: Tokenizer, chat: bool) -> list[Example]:
    (task,) = find_tasks([str(task_file)], ACCESS)
    return task_examples(task, read_docs(task, split, ACCESS), tokenizer, 128, chat)


def test_a_file_sorted_by_label_is_shuffled_and_every_row_is_trained_on_or_held_out(toy_folder: Path, tmp_path: Path) -> None:
    tokenizer, path = open_tokenizer(toy_folder), write(tmp_path / "sorted.jsonl", sums(150))
    own = write_own_task(path, tmp_path / "own", tokenizer)
    assert (own.rows, own.training, own.held, own.empty) == (150, 130, 20, 0)
    parts = [[json.loads(line) for line in (own.task.parent / f"{name}.jsonl").read_text().splitlines()] for name in ("train", "test")]
    assert sorted(row["prompt"] for part in parts for row in part) == sorted(row["prompt"] for row in sums(150))
    assert len({row["answer"] for row in parts[1]}) > 3, "the held-out rows are of several labels, though the file is sorted"
    assert write_own_task(path, tmp_path / "own", tokenizer).task == own.task, "the same file, the same task"
    assert write_own_task(path, tmp_path / "own", tokenizer, seed=1).task != own.task
    third = write_own_task(path, tmp_path / "own", tokenizer, share=1 / 3)
    assert (third.training, third.held) == (100, 50)
    large = write_own_task(write(tmp_path / "large.jsonl", sums(1000) * 5), tmp_path / "own", tokenizer)
    assert (large.training, large.held) == (4800, 200)


def test_plain_completions_follow_their_prompts_as_they_stand_and_end(toy_folder: Path, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(toy_folder)
    own = write_own_task(write(tmp_path / "plain.jsonl", sums(40)), tmp_path, tokenizer)
    assert not own.chat and not own.labels
    for example in examples_of(own.task, "train", tokenizer, chat=False):
        words = tokenizer.decode(example.ids).split()
        assert words[0] == "<s>" and words[-1] == "</s>" and example.loss_tokens == 2, "loss on the answer and the end of the text"


@pytest.mark.parametrize("form", ["messages", "prompt of messages", "instruction"])
def test_a_chat_has_loss_on_the_answer_and_the_end_of_its_turn_alone(form: str, chatty: Path, tmp_path: Path) -> None:
    """The ids of every example: the template's own tokens, the system message and earlier answers are context."""
    tokenizer = open_tokenizer(chatty)
    turns = [{"role": "system", "content": "w1"}, {"role": "user", "content": "w2"}, {"role": "assistant", "content": "w3"}]
    rows = []
    for number in range(4, 24):
        chat = [*turns, {"role": "user", "content": f"w{number}"}, {"role": "assistant", "content": ["plant", "stone"][number % 2]}]
        if form == "messages":
            rows.append({"messages": chat})
        elif form == "instruction":
            rows.append({"instruction": f"w{number}", "input": "", "output": chat[-1]["content"]})
        else:
            rows.append({"prompt": chat[:-1], "completion": chat[-1:]})
    own = write_own_task(write(tmp_path / "chats.jsonl", rows), tmp_path, tokenizer)
    assert own.chat and own.labels == 2
    before = "" if form == "instruction" else "<s> w1 <s> w2 <s> w3 </s> "
    for example in examples_of(own.task, "train", tokenizer, chat=True):
        context, answer = (tokenizer.decode(part) for part in (example.ids[: example.loss_from], example.ids[example.loss_from :]))
        number = int(context.split()[-2][1:])
        assert context.strip() == f"{before}<s> w{number} good" and answer.split() == [["plant", "stone"][number % 2], "</s>"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": "a"}], "has the columns text"),
        ([{"messages": [{"role": "user", "content": "w1"}]}] * 5, "row 0: the chat does not end with an answer"),
        ([{"messages": "w1"}] * 5, "row 0: messages is 'w1', not a list of messages"),
        ([{"prompt": "w1", "completion": "w2"}] * 4 + [{"prompt": "w1"}], "row 4: has no completion"),
        (
            [{"prompt": "w1", "completion": "w2"}] * 3 + [{"prompt": "w1", "completion": None}] * 9,
            "3 of 12 rows have a prompt and an answer",
        ),
        ([], "the file has no rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_line(rows: list[dict[str, Any]], says: str, toy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AssayError) as caught:
        write_own_task(write(tmp_path / "bad.jsonl", rows), tmp_path, open_tokenizer(toy_folder))
    assert says in str(caught.value) and caught.value.do


def test_long_answers_are_cut_and_long_prompts_left_out() -> None:
    made = [Example((1, 2, 3, 4, 5), 2), Example((1, 2, 3, 4, 5), 4), Example((1, 2), 1)]
    assert cut_examples(made, 4) == [Example((1, 2, 3, 4), 2), Example((1, 2), 1)]


def test_a_run_ends_at_its_epochs_or_steps() -> None:
    made = [Example((1, number, 3, 4), 2) for number in range(21)]
    two = plan_steps(made, loss_tokens=10**9, batch=4, seed=0, limit=Limit(epochs=2))
    seen = [example.ids for step in two for example in step.target]
    assert len(two) == 12 and len(seen) == 42 and all(seen.count(example.ids) == 2 for example in made)
    assert len(plan_steps(made, loss_tokens=10**9, batch=4, seed=0, limit=Limit(steps=3))) == 3
    assert len(plan_steps(made, loss_tokens=8, batch=4, seed=0, limit=Limit(steps=3, epochs=9))) == 1
    with pytest.raises(AssayError):
        Limit(epochs=-1)


def test_tune_on_a_file_tells_what_it_used_what_it_found_and_what_to_do_next(
    base: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ASSAY_RESULTS", "ASSAY_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    path = write(tmp_path / "sums.jsonl", [*sums(60), {"prompt": "", "completion": ""}])
    assert tune(model=str(base.path), task=str(path), steps=6, batch=4, lr=1e-2, warmup=0, clip=0.5, weight_decay=0.1, as_json=True) == 0
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert "61 rows (prompt/completion), 1 without a prompt or an answer left out: 40 to train on, 20 held out" in output.err
    planned = "plan: 1 training run of at most 6 steps, 4 examples a step; scored before and after: all items of the target; --retain would"
    assert planned in output.err
    (row,) = [row for row in found["rows"] if row["lr"]]
    assert row["steps"] == 6 and row["training_rows"] == 40 and row["epochs"] == pytest.approx(24 / 40) and row["items"] == 20
    assert "validation_loss" not in row, "with one learning rate nothing is scored to choose it"
    assert row["target_loss"] < row["target_loss_base"]
    assert any(
        "trained 6 steps (0.6 epochs of 40 rows; 0 too long and left out, 0 answers cut; 48 loss tokens)" in x for x in found["findings"]
    )
    assert any("on 20 held-out items" in line for line in found["findings"])
    adapter = next(line for line in found["findings"] if line.startswith("adapter: ")).split()[1]
    assert (Path(adapter) / "adapter_model.safetensors").is_file()
    score, forget = found["findings"][-2:]
    assert score == f"next: assay run --model {base.path} --adapter {adapter} --tasks {row['target']}"
    assert forget == f"next: assay forget {base.path} {adapter}"
    again = tune(model=str(base.path), task=str(path), steps=6, batch=4, lr=1e-2, warmup=0, clip=0.5, weight_decay=0.1, as_json=True)
    assert again == 0 and json.loads(capsys.readouterr().out)["rows"] == found["rows"], "the same command resumes: nothing is trained again"
