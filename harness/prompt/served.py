"""Prepares runs of served models: their identity, what stands for their tokenizer, and what the server must be able to do."""

from __future__ import annotations

import difflib
import hashlib
import json
import shlex
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from assay.harness.engines import Settings
from assay.harness.engines.request import GenRequest, ScoreGroup
from assay.harness.engines.served.client import list_models
from assay.harness.engines.served.engine import UNBOUNDED, open_engine
from assay.harness.engines.served.text import NOTHING, ServerTokenizer
from assay.harness.errors import AssayError, Incomplete
from assay.harness.model.find import ModelRef, tokenizer_folder
from assay.harness.model.served import Prompts, Server, clean_address
from assay.harness.prompt.chat import CALL, TemplateCall
from assay.harness.prompt.render import Message
from assay.harness.prompt.tokens import Tokenizer, open_tokenizer, tokenizer_digest
from assay.harness.store.plan import Plan

SERVERS_OWN = (
    "dtype",
    "device",
    "budget",
    "tensor_parallel",
    "pipeline_parallel",
    "data_parallel",
    "engine_args",
    "revision",
    "repeat_engine",
)
"""Options of a plan that only whoever starts the server can set."""
EXAMPLE = "The quick brown fox, 12345 + 6789 = ?\n  naïve café: π ≈ 3.14, 東京"
"""A text that different tokenizers encode differently."""


NAMED = "named_servers.txt"
"""File in the cache with the addresses of servers that a user has named on this machine."""


def check_named(address: str, cache: Path, stored: bool) -> None:
    """Record the address of a server that the user named. Raises AssayError if only a stored run names it (`stored`), which may be
    untrusted: the user's key and prompts would be sent there."""
    path, address = cache / NAMED, clean_address(address)
    try:
        known = set(path.read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        known = set()
    if address in known:
        return
    if stored:
        raise AssayError(
            "the run's server was never named on this machine: your key and prompts would be sent to it",
            where=address,
            do=f"if you trust it: assay run --model {shlex.quote(address)} --tasks smoke",
        )
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(address + "\n")


def find_served(plan: Plan) -> ModelRef:
    """The served model of a plan. Raises AssayError if the server cannot be reached or lacks the model, or an option does not fit."""
    address = clean_address(plan.model)
    defaults = Plan(model="", tasks=plan.tasks)
    for option in SERVERS_OWN:
        if getattr(plan, option) != getattr(defaults, option):
            name = "--" + option.removesuffix("s").replace("_", "-")
            raise AssayError("the server decides this, not assay", where=name, do=f"leave out {name}; give it to the server when it starts")
    if plan.adapter:
        raise AssayError(
            "an adapter cannot be sent to a server", where="--adapter", do="serve it under a name: vllm serve BASE --lora-modules NAME=DIR"
        )
    if plan.engine.partition(":")[0] not in ("auto", "served", "scripted"):
        raise AssayError("a served model needs engine served", where=f"--engine {plan.engine}", do="leave out --engine")
    if plan.thinking_budget is not None and not plan.tokenizer:
        raise AssayError("the thinking part is limited by token ids", where="--thinking-budget", do="add --tokenizer DIR")
    found = {entry["id"]: entry for entry in list_models(address)}
    name = plan.served_name or (next(iter(found)) if len(found) == 1 else "")
    if not name:
        do = f"--served-name {next(iter(found), 'NAME')}"
        raise AssayError(f"the server serves {len(found) or 'unlisted'} models, which one?", where=address, do=do)
    if found and name not in found:
        near = difflib.get_close_matches(name, found, 1, 0.3) or list(found)[:1]
        raise AssayError(f"the server does not serve {name!r}", where=address, do=f"did you mean --served-name {near[0]}?")
    prompts: Prompts = "ids" if plan.tokenizer else "chat" if plan.chat else "text"
    server = Server(address, name, prompts, found.get(name, {}))
    return ModelRef(
        name=f"{name}@{urlsplit(address).netloc}",
        path=Path(plan.tokenizer).expanduser() if plan.tokenizer else Path(),
        digest=server.digest,
        positions=server.positions if prompts == "ids" and server.positions else UNBOUNDED,
        server=server,
    )


class ServedTokenizer(Tokenizer):
    """Encodes text as code points, since the server tokenises, and leaves chats as JSON for the server's template."""

    def chats(self, chats: Sequence[list[Message]], call: TemplateCall = CALL) -> list[str]:
        arguments = {"arguments": dict(call.arguments)} if call.arguments else {}
        return [json.dumps({"messages": list(chat), **arguments}, ensure_ascii=False) for chat in chats]

    def template(self) -> str:
        return ""

    def turn_end(self, call: TemplateCall = CALL) -> str:
        return ""


def tokenizer_of(model: ModelRef) -> Tokenizer:
    """The tokenizer of a model's folder, or what stands for it where the server tokenises."""
    if model.server is None or model.server.prompts == "ids":
        return open_tokenizer(model.path) if model.server else open_tokenizer(tokenizer_folder(model), model.path)
    return ServedTokenizer((), NOTHING, hashlib.sha256(b"the server's").hexdigest()[:24], ServerTokenizer())


def digest_of_tokenizer(model: ModelRef) -> str:
    """The digest of `tokenizer_of(model)`, without loading a tokenizer."""
    if model.server is None or model.server.prompts == "ids":
        return tokenizer_digest(model.path if model.server else tokenizer_folder(model))
    return tokenizer_of(model).digest


def check_server(model: ModelRef, tokenizer: Tokenizer, requests: Sequence[ScoreGroup | GenRequest]) -> None:
    """Try, with a few tokens each, every kind of request that a run makes. Raises AssayError for what the server cannot do."""
    if model.server is None:
        return
    groups = (request for request in requests if isinstance(request, ScoreGroup))
    prompts = (request for request in requests if isinstance(request, GenRequest))
    with closing(open_engine(model, Settings())) as engine:
        try:
            if (group := next(groups, None)) is not None:
                engine.find_route(group)
            if (request := next(prompts, None)) is not None:
                engine.check_generation(request)
            if model.server.prompts == "ids":
                check_tokenizer(tokenizer, engine.tokens_of(EXAMPLE), model)
        except Incomplete as error:
            raise AssayError(error.what, where=model.server.address, do="check the server, then start the run again") from None


def check_tokenizer(tokenizer: Tokenizer, found: tuple[int, Sequence[int] | None], model: ModelRef) -> None:
    """Compare the local tokenizer with what the server made of EXAMPLE: the number of tokens, and the ids where it returns them."""
    (own,) = tokenizer.encode([EXAMPLE])
    count, ids = found
    special = range(3)  # BOS and EOS, which servers may add
    same = count - len(own) in special if ids is None else any(tuple(ids[n : n + len(own)]) == own for n in special)
    if count and not same:
        raise AssayError(
            f"the tokenizer is not the server's: it makes {len(own)} tokens of a test text, the server {count}",
            where=f"--tokenizer {model.path}",
            do="give the tokenizer folder of the served model",
        )


def served_facts(model: ModelRef) -> dict[str, Any]:
    """What a manifest holds of a served model."""
    server = model.server
    if server is None:
        return {}
    return {"served": {"address": server.address, "name": server.name, "prompts": server.prompts, "reported": dict(server.reported)}}
