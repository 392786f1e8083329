"""Encodes prompts that a source has finished itself: plain text with its few-shot examples, or the messages of a chat as JSON.

Contexts and continuations are encoded by lm-eval's rule in chats too (api/model.py, `_encode_pair`): white space at the end of the
rendered chat belongs to the continuation, and a beginning-of-text token is added only if the chat template has not written it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from assay.harness.engines.request import TokenIds
from assay.harness.prompt.chat import TemplateCall
from assay.harness.prompt.render import render
from assay.harness.prompt.tokens import EncodedPair, Tokenizer, encode_pairs
from assay.harness.store.plan import Plan
from assay.harness.task.doc import Doc
from assay.harness.task.task import Task

Texts = tuple[str, tuple[str, ...]]
"""A prompt and its continuations."""


def encode_finished(task: Task, docs: Sequence[Doc], plan: Plan, tokenizer: Tokenizer) -> tuple[list[Texts], list[EncodedPair]]:
    """(prompt, continuations) of every Doc, and their token ids: of the first context, where a Doc has several."""
    contexts = contexts_of([doc.contexts[0] if doc.contexts else doc.prompt for doc in docs], plan, tokenizer)
    pairs = [(context, render(task, doc).continuations) for context, doc in zip(contexts, docs, strict=True)]
    return pairs, encode_once(pairs, tokenizer)


def contexts_of(texts: Sequence[str], plan: Plan, tokenizer: Tokenizer) -> list[str]:
    """The contexts as they are sent. In a chat, a message of the assistant at the end is the beginning of the response."""
    if not plan.chat:
        return list(texts)
    chats = [json.loads(text) if text else [] for text in texts]
    openings = [chat.pop()["content"] if chat and chat[-1]["role"] == "assistant" else "" for chat in chats]
    call = TemplateCall(arguments=plan.template_arguments(), date=plan.template_date)
    rendered = iter(tokenizer.chats([chat for chat in chats if chat], call))
    return [next(rendered) + opening + plan.assistant_prefix if chat else "" for chat, opening in zip(chats, openings, strict=True)]


def encode_once(pairs: Sequence[Texts], tokenizer: Tokenizer) -> list[EncodedPair]:
    """The token ids of the pairs, with one beginning-of-text token where the prompt's text has its own."""
    return [replace(pair, context=without_second(pair.context, tokenizer.prefix)) for pair in encode_pairs(tokenizer, pairs)]


def without_second(context: TokenIds, prefix: TokenIds) -> TokenIds:
    return context[len(prefix) :] if prefix and context[: 2 * len(prefix)] == prefix * 2 else context
