"""Messages between an engine in another process and its owner: JSON, one message per line, token ids in binary. No pickle."""

from __future__ import annotations

import json
from array import array
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from assay.harness.engines import EngineStats
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply, TokenIds, raw
from assay.harness.errors import AssayError, Incomplete, Invalid, NotComparable
from assay.harness.model.find import ModelRef

Message = dict[str, Any]
COUNTS = ("logical", "computed", "cached", "forwards", "fallbacks")
CODES = {error.exit_code: error for error in (AssayError, NotComparable, Incomplete, Invalid)}


def line(message: Mapping[str, Any]) -> bytes:
    """One message as a line. NaN is allowed here: an engine may reply with it, and scoring makes an error of the item."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def pack_request(request: ScoreGroup | GenRequest) -> list[Any]:
    if isinstance(request, ScoreGroup):
        return [pack_ids(request.context), [pack_ids(ids) for ids in request.continuations], request.greedy]
    return [pack_ids(request.prompt), *(getattr(request, each.name) for each in fields(request)[1:])]


def read_group(data: Sequence[Any]) -> ScoreGroup:
    context, continuations, greedy = data
    return ScoreGroup(read_ids(context), tuple(map(read_ids, continuations)), greedy)


def read_generation(data: Sequence[Any]) -> GenRequest:
    return GenRequest(read_ids(data[0]), *map(frozen, data[1:]))


def pack_ids(ids: TokenIds) -> str:
    """Token ids as base64 of four bytes each in this machine's order: prompts are most of what is sent."""
    return b64encode(array("i", raw(ids))).decode()


def read_ids(data: str) -> TokenIds:
    return tuple(array("i", b64decode(data)))


def frozen(value: Any) -> Any:
    """The value with its lists, which JSON makes of tuples, as tuples."""
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def pack_reply(reply: ScoreReply | GenReply | Failure) -> list[Any]:
    match reply:
        case ScoreReply():
            return ["score", reply.logprobs, reply.greedy]
        case GenReply():
            return ["text", *(getattr(reply, each.name) for each in fields(reply))]
        case Failure():
            return ["failure", reply.reason]


def read_reply(data: Sequence[Any]) -> ScoreReply | GenReply | Failure:
    match data:
        case ["score", logprobs, greedy]:
            return ScoreReply(frozen(logprobs), tuple(greedy))
        case ["text", *values]:
            return GenReply(*map(frozen, values))
        case ["failure", reason]:
            return Failure(reason)
    raise ValueError(f"not a reply: {data!r:.80}")


def pack_model(model: ModelRef) -> Message:
    plain = {each.name: getattr(model, each.name) for each in fields(model) if each.name not in ("checkpoint", "server")}
    return {**plain, "path": str(model.path), "adapter": None if model.adapter is None else str(model.adapter)}


def read_model(data: Mapping[str, Any]) -> ModelRef:
    adapter = data["adapter"]
    return ModelRef(**{**data, "path": Path(data["path"]), "adapter": None if adapter is None else Path(adapter)})


def counts(stats: EngineStats) -> list[int]:
    return [getattr(stats, name) for name in COUNTS]


def pack_error(error: AssayError) -> Message:
    return {"what": error.what, "where": error.where, "do": error.do, "code": error.exit_code}


def read_error(data: Mapping[str, Any]) -> AssayError:
    return CODES.get(data["code"], AssayError)(data["what"], where=data["where"], do=data["do"])
