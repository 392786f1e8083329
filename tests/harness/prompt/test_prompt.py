"""Prompts, joints, few-shot examples and tokenization. Run: pytest tests/harness/prompt/test_prompt.py"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import NOWHERE, make_model, sums

from assay import AssayError, Choose, Doc, Generate, Layout, Regress, Shots, Task, accuracy, inline
from assay.harness.prompt.render import joint_after, render, render_chat
from assay.harness.prompt.shots import choose_examples
from assay.harness.prompt.tokens import Tokenizer, encode_pairs, open_tokenizer
from assay.harness.run.prepare import prepare_task
from assay.harness.store.plan import Plan


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return open_tokenizer(make_model(tmp_path_factory.mktemp("model")))


def docs(task: Task, split: str) -> list[Doc]:
    return [task.doc(row) for row in task.rows.load(split, NOWHERE).rows]


def test_the_joint_is_one_space_or_nothing() -> None:
    layout = Layout()
    assert [joint_after(text, layout) for text in ("", "Answer:", "A: ", "line\n")] == ["", " ", "", ""]


def test_a_prompt_is_instructions_examples_and_question() -> None:
    task = replace(sums(), layout=Layout(instructions="Add.\n\n"))
    pool, scored = docs(task, "train"), docs(task, "test")
    text = render(task, scored[0], pool[:2])
    assert text.prompt == "Add.\n\n100 + 1 = 101\n\n101 + 1 = 102\n\n0 + 0 ="
    assert text.continuations == (" -1", " 0", " 2")


def test_chat_turns_have_no_joint() -> None:
    task = sums()
    messages, continuations = render_chat(task, docs(task, "test")[1], docs(task, "train")[:1])
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == "101" and continuations == ("3", "4", "6")


def test_examples_are_fixed_by_the_seed_and_never_a_scored_question() -> None:
    task = sums()
    scored = docs(task, "test")
    pool = docs(task, "train") + scored[:5]
    chosen = choose_examples(task, 4, pool, scored, seed=3)
    assert chosen(0) == chosen(7) == choose_examples(task, 4, list(pool), scored, seed=3)(1)
    assert not {doc.prompt for doc in chosen(0)} & {doc.prompt for doc in scored}
    assert choose_examples(task, 4, pool, scored, seed=4)(0) != chosen(0)
    with pytest.raises(AssayError, match="6 usable rows"):
        choose_examples(task, 7, pool, scored, seed=0)


def test_balanced_examples_cycle_over_labels_by_frequency() -> None:
    task = replace(sums(), shots=Shots(order="balanced"))
    pool = [Doc(f"q{n}", references=("rare" if n == 0 else "common",)) for n in range(9)]
    answers = [doc.answer for doc in choose_examples(task, 5, pool, [], seed=0)(0)]
    assert answers == ["common", "rare", "common", "common", "common"]


def test_per_item_examples_exclude_the_item() -> None:
    task = replace(sums(), shots=Shots(order="per_item"))
    scored = docs(task, "test")
    chosen = choose_examples(task, 3, scored, scored, seed=0)
    for number, doc in enumerate(scored):
        assert len(set(map(id, chosen(number)))) == 3 and doc not in chosen(number)
    assert chosen(0) != chosen(1)


def test_context_and_continuation_are_encoded_together(tokenizer: Tokenizer) -> None:
    (cut,) = encode_pairs(tokenizer, [("ab  ", ("c", " d"))])
    assert tokenizer.decode(cut.context) == "ab"
    assert [tokenizer.decode(ids) for ids in cut.continuations] == ["  c", "   d"]


def test_trimmed_prompts_are_for_generated_answers_only() -> None:
    with pytest.raises(AssayError, match=r"Layout\(trim=True\) is for Generate, not for Choose"):
        replace(sums(), layout=Layout(trim=True))


def test_empty_context_is_the_end_token(tokenizer: Tokenizer) -> None:
    (cut,) = encode_pairs(tokenizer, [("", ("good", "bad"))])
    assert cut.context == (tokenizer.empty,)
    with pytest.raises(AssayError, match="no token"):
        encode_pairs(tokenizer, [("a", ("",))])


def test_prompts_longer_than_the_context_are_refused_or_lose_exemplars(tokenizer: Tokenizer) -> None:
    task = sums(5)
    plan = Plan(model="m", tasks=("sums",), shots=4)
    with pytest.raises(AssayError, match="longer than the model's context of 30 tokens"):
        prepare_task(task, plan, NOWHERE, tokenizer, 30)
    fitted = prepare_task(task, replace(plan, drop_shots=True), NOWHERE, tokenizer, 30)
    assert fitted.facts["shots_dropped"] == 5
    assert all(len(each.item.shots) == 1 for each in fitted.items)
    with pytest.raises(AssayError, match="longer than the model's context of 6 tokens"):
        prepare_task(task, replace(plan, drop_shots=True), NOWHERE, tokenizer, 6)


def test_the_fingerprint_depends_on_prompt_scorer_and_items(tokenizer: Tokenizer) -> None:
    plan = Plan(model="m", tasks=("sums",))

    def of(task: Task, plan: Plan = plan) -> str:
        return str(prepare_task(task, plan, NOWHERE, tokenizer, 500).facts["fingerprint"])

    task = sums()
    changed = [replace(task, layout=Layout(instructions="Add. ")), replace(task, ask=Choose("chars")), replace(task, version=2), sums(39)]
    assert of(task) == of(sums())
    assert len({of(task), *map(of, changed), of(task, replace(plan, shots=1))}) == 6


def test_equal_rows_are_two_items_but_an_equal_id_is_an_error(tokenizer: Tokenizer) -> None:
    rows = [{"q": "a"}, {"q": "a"}]
    task = Task("twins", inline(test=rows), lambda row: Doc(row["q"], choices=("x", "y"), gold=0), Choose(), (accuracy,))
    plan = Plan(model="m", tasks=("twins",))
    first, second = (each.item.id for each in prepare_task(task, plan, NOWHERE, tokenizer, 100).items)
    assert second == f"{first}-2"
    named = replace(task, doc=lambda row: Doc(row["q"], choices=("x", "y"), gold=0, id="same"))
    with pytest.raises(AssayError, match="two items have the id"):
        prepare_task(named, plan, NOWHERE, tokenizer, 100)


def test_errors_name_task_and_row(tokenizer: Tokenizer) -> None:
    rows = inline(test=[{"q": "a", "gold": 0}, {"q": "b", "gold": 2}])
    task = Task("bad", rows, lambda row: Doc(row["q"], choices=("x", "y"), gold=row["gold"]), Choose(), (accuracy,))
    plan = Plan(model="m", tasks=("bad",))
    with pytest.raises(AssayError, match=r"bad: row 1 of 'test': gold 2 is out of range for 2 choices"):
        prepare_task(task, plan, NOWHERE, tokenizer, 100)
    with pytest.raises(AssayError, match="row 0 of 'test': KeyError: 'nothing'"):
        prepare_task(replace(task, doc=lambda row: row["nothing"]), plan, NOWHERE, tokenizer, 100)
    with pytest.raises(AssayError, match="split 'test' is empty"):
        prepare_task(replace(task, rows=inline(test=[])), plan, NOWHERE, tokenizer, 100)
    with pytest.raises(AssayError, match="need the split 'train'"):
        prepare_task(replace(task, rows=inline(test=[{"q": "a", "gold": 0}])), replace(plan, shots=2), NOWHERE, tokenizer, 100)


@pytest.mark.parametrize("wrong", ["\ud800", 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda text: Layout(instructions=text),
        lambda text: Generate(8, stop=(text,)),
        lambda text: Choose(calibrate=text),
        lambda text: Regress((text,), (1.0,)),
        lambda text: Doc(text),
    ],
)
def test_invalid_text_is_refused(make: Callable[[Any], object], wrong: object) -> None:
    with pytest.raises(AssayError):
        make(wrong)


OPENED = """
import sys
from pathlib import Path
from assay.harness.prompt.tokens import open_tokenizer
found = open_tokenizer(Path(sys.argv[1]))
print(type(found.inner).__name__, found.encode(["a b c", "12 + 3 ="]), found.prefix, found.ends, "torch" in sys.modules)
"""


def test_the_class_of_a_tokenizer_is_remembered_so_that_torch_stays_out(tmp_path: Path) -> None:
    model, environment = make_model(tmp_path / "model"), {**os.environ, "ASSAY_CACHE": str(tmp_path / "cache")}

    def opened() -> list[str]:
        command = [sys.executable, "-c", OPENED, str(model)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.rsplit(maxsplit=1)

    first, second = opened(), opened()
    assert (first[1], second[1]) == ("True", "False") and first[0] == second[0]
    (memory,) = (tmp_path / "cache" / "tokenizers").iterdir()
    memory.write_text('["os", "abort"]')
    assert opened() == first, "only a class of transformers is taken from the cache"
