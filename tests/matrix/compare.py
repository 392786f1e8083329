"""Runs one row: assay's fast way beside the library's own plain way, with the ids that the user's own code would send."""

from __future__ import annotations

import shutil
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.engines import Settings
from assay.harness.engines.hf.engine import HfEngine, open_engine
from assay.harness.engines.request import GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.errors import AssayError
from assay.harness.model.find import ModelRef, find_model, tokenizer_folder
from assay.harness.prompt.tokens import encode_pairs, open_tokenizer
from tests.matrix.adapters import save_adapter
from tests.matrix.models import WRAPPERS, change_config, change_json, change_tensors, save_model
from tests.matrix.rows import Row
from tests.matrix.tokenizers import TEXT, save_tokenizer

EXACT, MEDIAN = 1e-4, 0.1
"""Largest accepted difference of a token in fp32, and median difference in 16 bits, in nats."""
NEW = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """What assay did with a row. `off`: largest (fp32) or median difference in nats; -1 if it refused."""

    good: bool
    off: float
    text: str
    route: str = ""


def run_row(row: Row, home: Path) -> Outcome:
    """Build the row's model, tokenizer and adapter, and compare."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base, adapter, live = build(row, home)
        try:
            ref = find_model(str(base), adapter=adapter, cache=home, offline=True)
            engine = open_engine(ref, Settings(dtype=row.dtype, device="cpu"))
        except AssayError as error:
            line = str(error).replace(str(home), "DIR")
            return Outcome(bool(row.refused) and row.refused in line and "\n" not in line, -1.0, f"refused: {line}")
        assert isinstance(engine, HfEngine)
        try:
            off, text = compare(row, engine, ref, live)
        finally:
            engine.close()
    if row.refused:
        return Outcome(row.refused in text, -1.0, text or "scored")
    good = not text and off <= (EXACT if row.dtype == "float32" else MEDIAN)
    return Outcome(good, off, text or "equal" if good else text or "differs", engine.describe()["route"])


def build(row: Row, home: Path) -> tuple[Path, Path | None, Any]:
    """The folders of model and adapter, and a function that loads the model as the library's user does."""
    import torch
    import transformers

    base = home / "base"
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = save_model("tied" if row.model == "wide" else row.model, base)
    save_tokenizer(row.tokenizer, base)
    if row.model == "wide":
        model.resize_token_embeddings(384)
        model.save_pretrained(base)
    CHANGES.get(row.change, lambda folder: None)(base)
    auto = transformers.AutoModelForImageTextToText if row.model in WRAPPERS else transformers.AutoModelForCausalLM
    dtype = getattr(torch, row.dtype)
    if row.refused and not row.adapter:
        return base, None, None
    live = auto.from_pretrained(base, dtype=torch.float32 if row.adapter else dtype).eval()
    if not row.adapter:
        return base, None, live
    tuned, _ = save_adapter(row.adapter, live, base, home / "adapter")
    if row.dtype != "float32" and not row.refused:
        from peft import PeftModel

        tuned = PeftModel.from_pretrained(auto.from_pretrained(base, dtype=dtype), str(home / "adapter")).eval()
    return base, home / "adapter", tuned


def compare(row: Row, engine: HfEngine, ref: ModelRef, live: Any) -> tuple[float, str]:
    """The difference of scores in nats, and what else is wrong: other ids, a failed request, another greedy text."""
    import transformers

    tokenizer = open_tokenizer(tokenizer_folder(ref))
    own = transformers.AutoTokenizer.from_pretrained(tokenizer_folder(ref))
    pairs = prompts()
    encoded = encode_pairs(tokenizer, pairs)
    groups = [ScoreGroup(pair.context, pair.continuations, True) for pair in encoded]
    for (prompt, choices), group in zip(pairs, groups, strict=True):
        for choice, ids in zip(choices, group.continuations, strict=True):
            if [*group.context, *ids] != without_end(own, own(prompt + choice)["input_ids"]):
                return 0.0, f"other ids than the tokenizer's own for {prompt + choice!r:.40}"
    differences: list[float] = []
    for index, reply in engine.score(groups):
        if not isinstance(reply, ScoreReply):
            return 0.0, reply.reason
        for ids, found in zip(groups[index].continuations, reply.logprobs, strict=True):
            expected = plain(live, groups[index].context, ids)
            differences += [abs(one - other) for one, other in zip(found, expected, strict=True)]
    if row.dtype != "float32":
        return statistics.median(differences), ""
    request = GenRequest(groups[0].context, NEW)
    ((_, reply),) = engine.generate([request])
    if not isinstance(reply, GenReply):
        return max(differences), f"generation: {reply}"
    ids = greedy(live, groups[0].context, len(reply.tokens))
    wrong = "" if tuple(ids) == reply.tokens else f"generated {reply.tokens}, plain forwards {tuple(ids)}"
    return max(differences), wrong


def prompts() -> list[tuple[str, tuple[str, ...]]]:
    """Prompts of about 10 to 90 tokens with shared beginnings, each with continuations of several lengths."""
    words = " ".join(TEXT).split()
    stem = " ".join(words[:12])
    texts = [stem, f"{stem} {' '.join(words[14:17])}", f"{stem} {' '.join(words[20:32])}", " ".join(words[5:9]), " ".join(words)]
    return [(text, (" the", " lazy dog", " Paris is the capital")) for text in texts]


def without_end(tokenizer: Any, ids: list[int]) -> list[int]:
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def logits(model: Any, ids: tuple[int, ...]) -> Any:
    """fp32 logits [tokens, vocabulary] of one plain forward, without the rows of virtual tokens."""
    import torch

    with torch.inference_mode():
        whole = torch.tensor([ids])
        return model(input_ids=whole, attention_mask=torch.ones_like(whole), use_cache=False).logits[0].float()[-len(ids) :]


def plain(model: Any, context: tuple[int, ...], ids: tuple[int, ...]) -> list[float]:
    rows = logits(model, context + ids[:-1]).log_softmax(-1)
    return [float(rows[len(context) - 1 + place, token]) for place, token in enumerate(ids)]


def greedy(model: Any, prompt: tuple[int, ...], count: int) -> list[int]:
    found: list[int] = []
    while len(found) < count:
        found.append(int(logits(model, (*prompt, *found))[-1].argmax()))
    return found


def rename(folder: Path, name: str, *gone: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    for other in gone:
        (folder / other).unlink()


NATIVE = {"AutoConfig": "code.LlamaConfig", "AutoModelForCausalLM": "code.LlamaForCausalLM"}
CHANGES: dict[str, Callable[[Path], Any]] = {
    "auto_map of a native architecture": lambda folder: change_config(folder, auto_map=NATIVE),
    "auto_map of an unknown architecture": lambda folder: change_config(
        folder, auto_map=NATIVE, model_type="novel", architectures=["NovelForCausalLM"]
    ),
    "no lm_head": lambda folder: change_tensors(folder, ("lm_head.weight",)),
    "no k_proj": lambda folder: change_tensors(folder, ("model.layers.1.self_attn.k_proj.weight",)),
    "a bias that is not used": lambda folder: change_tensors(folder, add={"model.layers.0.self_attn.q_proj.bias": (64,)}),
    "one layer more": lambda folder: change_tensors(folder, add={"model.layers.2.input_layernorm.weight": (64,)}),
    "a value head": lambda folder: change_tensors(folder, add={"v_head.summary.weight": (1, 64)}),
    "only a variant": lambda folder: rename(folder, "model.fp16.safetensors"),
    "only GGUF": lambda folder: rename(folder, "q4.gguf", "config.json"),
    "Mistral's format": lambda folder: (
        rename(folder, "consolidated.safetensors", "config.json"),
        shutil.copy(__file__, folder / "params.json"),
    ),
    "generation config that samples": lambda folder: (folder / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.2, "top_k": 3, "suppress_tokens": [5, 6, 7], "forced_bos_token_id": 3}'
    ),
    "a tokenizer that pads on the left": lambda folder: change_json(folder / "tokenizer_config.json", padding_side="left"),
    "weights that overflow fp16": lambda folder: change_tensors(folder, add={"model.layers.1.mlp.down_proj.weight": (64, 96)}, scale=1e4),
}
