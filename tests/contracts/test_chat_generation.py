"""Answers of the built-in model, plain and in a chat: for every item those of transformers' own `generate` on the same text or messages.

Run: pytest -m model -n 0 -s tests/contracts/test_chat_generation.py (-s prints the accuracies)
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
from fakes import NOWHERE, place

from assay import Doc, Generate, Plan, Task, evaluate, exact_match, inline, read_run
from assay.harness.engines.request import GenRequest
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.run.prepare import prepare_task

pytestmark = pytest.mark.model
MOST, ITEMS = 10, 12
"""Tokens of a response, and items of a task."""
PEOPLE = ("Ann", "Boris", "Chidi", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jun")
CITIES = ("Paris", "Rome", "Lagos", "Oslo", "Lima", "Cairo", "Delhi", "Madrid", "Tokyo", "Berlin")
WORK = ("teaches music", "repairs bicycles")


def add(row: dict[str, Any]) -> Doc:
    return Doc(f"What is {row['a']} + {row['b']}? Answer with the number only.\nAnswer:", references=(str(row["a"] + row["b"]),))


def where(row: dict[str, Any]) -> Doc:
    text = f"{row['who']} {row['work']} in {row['city']} and has two sisters."
    return Doc(f"{text} In which city does {row['who']} work? Answer with the city only.\nAnswer:", references=(row["city"],))


SUMS = [{"a": a, "b": 3 * a % 7 + 1} for a in range(ITEMS)]
PLACES = [{"who": PEOPLE[n % 10], "city": CITIES[(3 * n + n // 10) % 10], "work": WORK[n // 10]} for n in range(ITEMS)]
ASK = Generate(max_tokens=MOST, stop=("\n",))
TASKS = (
    Task("arithmetic", inline(test=SUMS), add, ASK, (exact_match,)),
    Task("extraction", inline(test=PLACES), where, ASK, (exact_match,)),
)


@pytest.fixture(scope="module")
def library(builtin_model: Path) -> Any:
    """transformers' own model and tokenizer."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(builtin_model)
    return transformers.AutoModelForCausalLM.from_pretrained(builtin_model, dtype="float32").eval(), tokenizer


def generated(model: Any, tokenizer: Any, ids: list[int]) -> str:
    """transformers' greedy text, up to the first line break, which is the tasks' stop string."""
    import torch

    whole = torch.tensor([ids])
    found = model.generate(whole, attention_mask=torch.ones_like(whole), max_new_tokens=MOST, do_sample=False)
    return str(tokenizer.decode(found[0][len(ids) :], skip_special_tokens=True)).partition("\n")[0]


@pytest.mark.parametrize("chat", [False, True])
def test_answers_are_those_of_transformers(chat: bool, builtin_model: Path, library: Any, tmp_path: Path) -> None:
    model, tokenizer = library
    plan = Plan(model=str(builtin_model), tasks=(f"{__name__}:TASKS",), engine="hf", dtype="float32", chat=chat)
    run = read_run(evaluate(plan, place(tmp_path)))
    items, right = {(item.task, item.id): item for item in run.items()}, {"arithmetic": list[bool](), "extraction": list[bool]()}
    own = open_tokenizer(builtin_model)
    sent = {(task.name, each.item.id): each.requests for task in TASKS for each in prepare_task(task, plan, NOWHERE, own, 8192).items}
    for record in run.records():
        item = items[record.task, record.item]
        if chat:
            question = item.prompt.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
            messages = [{"role": "user", "content": question}]
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
            assert item.prompt == tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        else:
            ids = tokenizer(item.prompt)["input_ids"]
        (request,) = sent[record.task, record.item]
        assert isinstance(request, GenRequest) and list(request.prompt) == ids
        assert record.output["text"] == generated(model, tokenizer, ids), item.prompt
        right[record.task].append(item.doc["references"][0] in record.output["text"])
    accuracies = {name: statistics.mean(values) for name, values in right.items() if len(values) == ITEMS}
    print(f"\n{'with' if chat else 'without'} --chat: {accuracies}")
    assert set(accuracies) == set(right) and (not chat or min(accuracies.values()) > 0.5), "in a chat the answers are real ones"
