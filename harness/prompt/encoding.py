"""From Docs to token ids under a plan: plain prompts or chats, what ends a response, and where its thinking part is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from assay.harness.engines.request import GenRequest, Thinking, TokenIds
from assay.harness.errors import AssayError
from assay.harness.prompt.chat import TemplateCall
from assay.harness.prompt.finished import Texts, encode_finished
from assay.harness.prompt.render import groups_of, render, render_chat, trimmed
from assay.harness.prompt.tokens import EncodedPair, Tokenizer, encode_pairs
from assay.harness.store.plan import Plan
from assay.harness.task.doc import Doc
from assay.harness.task.task import Choose, Generate, Loglikelihood, Task

MARKERS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
)
"""Markers around the thinking part, as chat templates and vocabularies name them."""


def template_call(plan: Plan) -> TemplateCall:
    return TemplateCall(arguments=plan.template_arguments(), date=plan.template_date)


def encode(
    task: Task, docs: Sequence[Doc], shots: Sequence[tuple[Doc, ...]], plan: Plan, tokenizer: Tokenizer
) -> tuple[list[Texts], list[EncodedPair]]:
    """(prompt, continuations) of every Doc, and their token ids. Raises AssayError where different Docs have one prompt."""
    pairs: list[Texts]
    if task.shots.order == "source":
        return encode_finished(task, docs, plan, tokenizer)
    if plan.chat:
        chats = [render_chat(task, doc, own, plan.system, plan.one_turn) for doc, own in zip(docs, shots, strict=True)]
        texts = tokenizer.chats([messages for messages, _ in chats], template_call(plan))
        pairs = [(text + plan.assistant_prefix, continuations) for text, (_, continuations) in zip(texts, chats, strict=True)]
    else:
        rendered = [render(task, doc, own) for doc, own in zip(docs, shots, strict=True)]
        pairs = [(trimmed(each.prompt, task.layout), each.continuations) for each in rendered]
    require_distinct(task, docs, [prompt for prompt, _ in pairs], plan.chat)
    return pairs, encode_pairs(tokenizer, pairs, special=plan.chat)


def further_pairs(
    task: Task, docs: Sequence[Doc], shots: Sequence[tuple[Doc, ...]], plan: Plan, tokenizer: Tokenizer
) -> list[tuple[EncodedPair, ...]]:
    """What else is scored of every Doc: its choices after the neutral context of Choose(calibrate=...), or after their other contexts."""
    if isinstance(task.ask, Choose) and task.ask.calibrate is not None:
        neutral = task.ask.calibrate
        pairs = [(neutral, render(task, replace(doc, prompt=neutral)).continuations) for doc in docs]
        return [(pair,) for pair in encode_pairs(tokenizer, pairs)]
    if not isinstance(task.ask, Loglikelihood):
        return [()] * len(docs)
    others = [[of_context(doc, *group) for group in groups_of(doc)[1:]] for doc in docs]
    repeated = [own for own, each in zip(shots, others, strict=True) for _ in each]
    _, encoded = encode(task, [doc for each in others for doc in each], repeated, plan, tokenizer)
    found = iter(encoded)
    return [tuple(next(found) for _ in each) for each in others]


def of_context(doc: Doc, context: str, places: tuple[int, ...]) -> Doc:
    """The Doc with one of its contexts as its prompt, and the choices of that context."""
    choices = tuple(doc.choices[place] for place in places)
    return replace(doc, prompt=context, choices=choices, contexts=(), gold=None, targets=())


def require_distinct(task: Task, docs: Sequence[Doc], prompts: Sequence[str], chat: bool) -> None:
    """Raises AssayError where Docs with different prompts are rendered to one text: their content is lost."""
    by_text: dict[str, dict[str, str]] = defaultdict(dict)
    for doc, prompt in zip(docs, prompts, strict=True):
        by_text[prompt].setdefault(doc.prompt.strip(), doc.id)
    same = max(by_text.values(), key=len, default={})
    if len(same) > 1:
        first, second, *_ = same.values()
        raise AssayError(
            f"{len(same)} items with different questions have the same prompt",
            where=f"{task.full_name}, items {first} and {second}",
            do="the chat template loses the message's text: fix it, or run without --chat" if chat else "fix the task's doc function",
        )


@dataclass(frozen=True, slots=True)
class ResponseForm:
    """What ends the responses of a task under a plan, and how their thinking part is found; None for models without one."""

    ask: Generate
    stop: tuple[str, ...]
    ends: TokenIds
    thinking: Thinking | None
    logprob: bool = True
    """Whether the log-probabilities of the texts are read."""

    def requests(self, prompt: str, ids: TokenIds) -> tuple[GenRequest, ...]:
        """One request per sample."""
        ask, thinking = self.ask, self.thinking
        if thinking is not None:
            thinking = replace(thinking, begun=prompt.rstrip().endswith(thinking.opening))
        request = GenRequest(ids, ask.max_tokens, self.stop, ask.temperature, 0, self.ends, ask.top_p, thinking, self.logprob)
        return tuple(replace(request, seed=sample) if sample and ask.temperature else request for sample in range(ask.samples))


def response_form(ask: Generate, plan: Plan, tokenizer: Tokenizer) -> ResponseForm:
    """Responses end at the model's end-of-text ids, at the task's stop strings (also those that are special tokens), and in a chat where
    the template ends the assistant's turn."""
    turn = tokenizer.turn_end(template_call(plan)).strip() if plan.chat else ""
    turn_ids = tokenizer.encode([turn])[0][:1] if turn else ()
    added = tokenizer.added_ids() if turn else frozenset()
    known = bool(turn_ids) and turn_ids[0] in added
    ends = {*tokenizer.ends, *tokenizer.special_ids(ask.stop), *(turn_ids if known else ())}
    stop = (*ask.stop, turn) if turn and not known and turn not in ask.stop else ask.stop
    markers = markers_of(tokenizer, plan.chat)
    thinking = None if markers is None else thinking_between(*markers, ask.thinking_budget, tokenizer)
    return ResponseForm(ask, stop, tuple(sorted(ends)), thinking)


def thinking_between(opening: str, closing: str, budget: int | None, tokenizer: Tokenizer) -> Thinking:
    (close,) = tokenizer.encode([f"\n{closing}\n\n"])
    return Thinking(opening, closing, close, tokenizer.special_ids([closing]), tokenizer.decode, budget=budget)


def markers_of(tokenizer: Tokenizer, chat: bool) -> tuple[str, str] | None:
    """The markers of the thinking part that the chat template (in a chat) or the vocabulary's added tokens name; None if neither does."""
    template = tokenizer.template() if chat else ""
    added = tokenizer.added_texts()
    return next((pair for pair in MARKERS if pair[1] in template or set(pair) <= added), None)
