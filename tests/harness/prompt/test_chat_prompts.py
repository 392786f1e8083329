"""The ids that are sent are those of the text that is stored and shown. Run: pytest tests/harness/prompt/test_chat_prompts.py"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import NOWHERE, make_model, place

from assay import AssayError, Choose, Doc, Generate, Task, accuracy, evaluate, exact_match, inline, read_run
from assay.harness.engines.request import GenReply, GenRequest, ScoreGroup
from assay.harness.engines.scripted import Scripted
from assay.harness.prompt.render import render_chat
from assay.harness.prompt.tokens import Tokenizer, encode_pairs, open_tokenizer
from assay.harness.run.prepare import PreparedItem, prepare_task
from assay.harness.run.scoring.results import rescore
from assay.harness.store.plan import Plan
from assay.tuners.training.data import task_examples
from tests.harness.prompt.chat_models import BEGUN, CHATML, DATED, LISTED, LLAMA, PARTS, SILENT, THINKING, make_chat_tokenizer

ROWS = [{"q": "What is 1 + 1?\nA:\n", "a": "2"}, {"q": "What is 2 + 3? A: ", "a": "5"}, {"q": "Name a colour.", "a": "red"}]


def spoken(row: Any) -> Doc:
    return Doc(row["q"], references=(row["a"],))


def chosen(row: Any) -> Doc:
    return Doc(row["q"], choices=("2", "5", "red"), gold=("2", "5", "red").index(row["a"]))


SAY = Task("say", inline(test=ROWS, train=[{"q": "What is 0 + 0?", "a": "0"}]), spoken, Generate(8, ("\n",)), (exact_match,))
PICK = Task("pick", inline(test=ROWS), chosen, Choose(), (accuracy,))


def items(task: Task, tokenizer: Tokenizer, **options: Any) -> tuple[PreparedItem, ...]:
    return prepare_task(task, Plan(model="m", tasks=("x",), **options), NOWHERE, tokenizer, 500).items


def requests(task: Task, tokenizer: Tokenizer, **options: Any) -> list[GenRequest]:
    return [request for each in items(task, tokenizer, **options) for request in each.requests if isinstance(request, GenRequest)]


@pytest.mark.parametrize("template", [CHATML, LLAMA, THINKING, BEGUN])
@pytest.mark.parametrize("bos", [False, True])
def test_chat_ids_are_those_of_the_template(template: str, bos: bool, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(make_chat_tokenizer(tmp_path, template, bos))
    for task in (SAY, PICK):
        for each, row in zip(items(task, tokenizer, chat=True), ROWS, strict=True):
            messages, _ = render_chat(task, task.doc(row))
            wanted = tokenizer.inner.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            (request,) = each.requests
            assert list(request.context if isinstance(request, ScoreGroup) else request.prompt) == wanted
            assert each.item.prompt == tokenizer.inner.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            assert each.item.doc.get("moved", 0) == 0


def test_a_generation_prompt_keeps_its_last_white_space_and_a_scored_one_moves_it(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(make_chat_tokenizer(tmp_path, CHATML, bos=True))
    for request, row in zip(requests(SAY, tokenizer), ROWS, strict=True):
        assert tokenizer.decode(request.prompt) == "<s>" + row["q"]
    (first, *_) = items(PICK, tokenizer)
    (group,) = first.requests
    assert isinstance(group, ScoreGroup)
    assert tokenizer.decode(group.context) == "<s>" + ROWS[0]["q"].rstrip() and tokenizer.decode(group.continuations[0]) == "\n2"


def test_in_a_chat_a_continuation_that_would_change_the_prompt_is_encoded_alone(tmp_path: Path) -> None:
    class Merging(Tokenizer):
        def encode(self, texts: Any) -> list[tuple[int, ...]]:
            return [tuple(len(piece) for piece in re.findall(r"\nA|.|\n", text)) for text in texts]

    tokenizer = Merging((), 0, "", None)
    (cut,) = encode_pairs(tokenizer, [("x\n", ("A", "B"))], special=True)
    assert (cut.context, cut.continuations, cut.moved) == ((1, 1), ((1,), (1,)), 0)
    (cut,) = encode_pairs(tokenizer, [("x\n", ("A",))])
    assert (cut.context, cut.continuations, cut.moved) == ((1,), ((2,),), 0)


def test_training_in_a_chat_has_loss_on_the_answer_and_the_end_of_turn_only(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(make_chat_tokenizer(tmp_path, CHATML))
    for task in (SAY, PICK):
        docs = [task.doc(row) for row in ROWS]
        for example, doc, sent in zip(
            task_examples(task, docs, tokenizer, 500, chat=True), docs, items(task, tokenizer, chat=True), strict=True
        ):
            (request,) = sent.requests
            assert example.ids[: example.loss_from] == (request.context if isinstance(request, ScoreGroup) else request.prompt)
            assert tokenizer.decode(example.ids[example.loss_from :]) == doc.answer + "<|im_end|>"
            turns = [*render_chat(task, doc)[0], {"role": "assistant", "content": doc.answer}]
            whole = tokenizer.inner.apply_chat_template(turns, return_dict=False)
            assert list(example.ids) == whole[: len(example.ids)] and tokenizer.decode(whole[len(example.ids) :]) == "\n"


def test_training_on_a_plain_prompt_begins_where_generation_does(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(make_chat_tokenizer(tmp_path, ""))
    for example, request, row in zip(
        task_examples(SAY, [spoken(row) for row in ROWS], tokenizer, 500), requests(SAY, tokenizer), ROWS, strict=True
    ):
        assert example.ids[: example.loss_from] == request.prompt
        assert tokenizer.decode(example.ids[example.loss_from :]).strip() == row["a"]


def test_bos_is_found_by_a_text_that_the_tokenizer_knows(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Fast
    from tokenizers import models, processors
    from transformers import PreTrainedTokenizerFast

    fast = Fast(models.BPE(vocab={"<s>": 0, "</s>": 1, "A": 2, "C": 3, "G": 4, " ": 5}, merges=[]))
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<s>", eos_token="</s>").save_pretrained(tmp_path)
    tokenizer = open_tokenizer(tmp_path)
    assert tokenizer.inner("a", add_special_tokens=False)["input_ids"] == []
    assert tokenizer.prefix == (0,) and tokenizer.start() == (0,)
    (cut,) = encode_pairs(tokenizer, [("AC", ("G",))])
    assert cut.context + cut.continuations[0] == (0, 2, 3, 4)


def test_a_tokenizer_without_bos_and_eos_is_refused_only_for_an_empty_prompt(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(make_chat_tokenizer(tmp_path, "", eos=False))
    assert tokenizer.prefix == () and tokenizer.empty is None
    assert len(requests(SAY, tokenizer)) == 3
    with pytest.raises(AssayError, match="an empty prompt needs a BOS or EOS token"):
        items(replace(PICK, doc=lambda row: replace(chosen(row), prompt="")), tokenizer)


def test_different_questions_with_one_prompt_are_an_error(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(make_chat_tokenizer(tmp_path, SILENT))
    with pytest.raises(AssayError, match="3 items with different questions have the same prompt"):
        items(SAY, tokenizer, chat=True)
    twins = replace(SAY, rows=inline(test=[ROWS[0], ROWS[0]]))
    assert len(items(twins, tokenizer, chat=True)) == 2, "equal questions may have equal prompts"


@pytest.mark.parametrize("template", [PARTS, LISTED])
@pytest.mark.parametrize("processor", [False, True])
def test_a_template_that_shows_only_content_parts_gets_them(template: str, processor: bool, tmp_path: Path) -> None:
    """Multimodal models have such templates, some in the file that only a processor reads."""
    folder = make_chat_tokenizer(tmp_path, "" if processor else template)
    if processor:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    tokenizer = open_tokenizer(folder)
    for each, row in zip(items(SAY, tokenizer, chat=True, shots=1, system="Be brief."), ROWS, strict=True):
        messages, _ = render_chat(SAY, SAY.doc(row), (spoken({"q": "What is 0 + 0?", "a": "0"}),), "Be brief.")
        parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
        assert each.item.prompt == tokenizer.inner.apply_chat_template(
            parts, chat_template=template, add_generation_prompt=True, tokenize=False
        )
        assert all(message["content"] in each.item.prompt for message in messages)


def test_the_date_of_a_template_is_the_plans(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(make_chat_tokenizer(tmp_path, DATED))
    prompts = [items(SAY, tokenizer, chat=True, **options)[0].item.prompt[:11] for options in ({}, {"template_date": "2024-07-26"})]
    assert prompts == ["01 Jan 2026", "26 Jul 2024"]
    with pytest.raises(AssayError, match="not a date"):
        Plan(model="m", tasks=("x",), template_date="today")


def test_system_message_template_arguments_one_turn_and_prefix(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(make_chat_tokenizer(tmp_path, THINKING))
    options = {"chat": True, "system": "Be short.", "template_args": ("enable_thinking=false",), "assistant_prefix": "Answer:", "shots": 1}
    turns = items(SAY, tokenizer, **options)[2].item.prompt
    one = items(SAY, tokenizer, **options, one_turn=True)[2].item.prompt
    system, question, answer = "<|im_start|>system\nBe short.<|im_end|>\n", "What is 0 + 0?", "0"
    end = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nAnswer:"
    user, assistant = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    assert turns == f"{system}{user}{question}{assistant}{answer}<|im_end|>\n{user}Name a colour.{end}"
    assert one == f"{system}{user}{question} {answer}\n\nName a colour.{end}"
    for wrong in ({"system": "x"}, {"one_turn": True}, {"assistant_prefix": "x"}, {"template_args": ("a=1",)}):
        with pytest.raises(AssayError, match="need a chat"):
            Plan(model="m", tasks=("x",), **wrong)
    with pytest.raises(AssayError, match="not key=value"):
        Plan(model="m", tasks=("x",), chat=True, template_args=("enable_thinking",))
    assert Plan.from_json(Plan(model="m", tasks=("x",), **options, stop=("a",)).as_json()).stop == ("a",)


def test_responses_end_at_every_end_of_text_and_of_turn_and_at_special_stops(tmp_path: Path) -> None:
    folder = make_chat_tokenizer(tmp_path, CHATML)
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    (folder / "config.json").write_text('{"eos_token_id": 4, "text_config": {"eos_token_id": 0}}')
    tokenizer = open_tokenizer(folder)
    assert requests(SAY, tokenizer)[0].ends == (0, 4, 5, 6)
    chat = requests(SAY, tokenizer, chat=True)[0]
    assert chat.ends == (0, 3, 4, 5, 6) and chat.stop == ("\n",)
    assert requests(replace(SAY, ask=Generate(8, ("<|im_start|>", "x"))), tokenizer)[0].ends == (0, 2, 4, 5, 6)
    words = make_chat_tokenizer(tmp_path / "words", "{% for m in messages %}{{ m.role + ': ' + m.content + ' ###\n' }}{% endfor %}")
    assert requests(SAY, open_tokenizer(words), chat=True)[0].stop == ("\n", "###")


def test_the_samples_of_an_item_are_one_item_of_its_cluster_scored_by_their_mean(tmp_path: Path) -> None:
    """Options override the task's own; a metric that reads one text is averaged over the samples, one that reads all is not."""
    (task := tmp_path / "say.py").write_text(
        "from assay import Doc, Generate, Metric, Task, exact_match, inline, Completion\n"
        "most = Metric('any', lambda doc, out: (float(doc.references[0] in out.samples),), reads=Completion)\n"
        "TASKS = (Task('say', inline(test=[{'q': str(n)} for n in range(12)]), lambda row: Doc(row['q'], references=('yes',),"
        " cluster=str(int(row['q']) // 2)), Generate(8, ('x',)), (exact_match, most)),)\n"
    )
    seen: list[GenRequest] = []

    def answer(request: Any) -> GenReply:
        seen.append(request)
        return GenReply("yes" if request.seed % 4 == 0 else "no", (1,), "stop", -1.0)

    options: dict[str, Any] = {"samples": 4, "temperature": 0.7, "top_p": 0.9, "max_tokens": 3, "stop": ("\n", "###")}
    plan = Plan(model=str(make_model(tmp_path / "model")), tasks=(str(task),), engine="scripted", **options)
    run = read_run(evaluate(plan, place(tmp_path), opener=lambda *_: Scripted(answer)))
    exact, most = run.summary()["results"]
    assert (exact["value"], exact["n"], most["value"]) == (0.25, 12, 1.0)
    assert {(each.max_tokens, each.stop, each.temperature, each.top_p) for each in seen} == {(3, ("\n", "###"), 0.7, 0.9)}
    assert len(seen) == 48 and len(list(run.records())) == 12 and len({item.cluster for item in run.items()}) == 6
    assert {record.correct for record in run.records()} == {0.25}
    for part in ("samples:4", "temperature:0.7", "top_p:0.9", "max_tokens:3"):
        assert part in exact["signature"]
    assert rescore(run, place(tmp_path).access()) == run.summary()["results"]
    plain = read_run(evaluate(replace(plan, **dict.fromkeys(options)), place(tmp_path / "b"), opener=lambda *_: Scripted(answer)))
    assert plain.manifest["tasks"][0]["fingerprint"] != run.manifest["tasks"][0]["fingerprint"]
    assert plain.manifest["tasks"][0]["ask"] == "Generate(max_tokens=8, stop=('x',), temperature=0.0, samples=1)"
