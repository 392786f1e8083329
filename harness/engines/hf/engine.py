"""The transformers engine: every distinct prefix of a call is computed once (packing.py); score.py checks this when a model is loaded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.engines import EngineStats, Limits, Settings
from assay.harness.engines.arguments import parse_arguments
from assay.harness.engines.hf.forward import attention_of, empty_cache, first_line, footprint
from assay.harness.engines.hf.generate import generate
from assay.harness.engines.hf.load import free_memory, load, swap_weights
from assay.harness.engines.hf.score import Runner, check_causal, score, self_test
from assay.harness.engines.hf.unbatched import unbatched_replies
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply, refusal
from assay.harness.engines.text import TextDecoder
from assay.harness.engines.threads import choose_threads, cores, set_passive_wait
from assay.harness.engines.trie import logical_tokens
from assay.harness.errors import AssayError
from assay.harness.model.find import ModelRef, tokenizer_folder


def group_refusal(group: ScoreGroup, limits: Limits) -> Failure | None:
    longest = max(map(len, group.continuations))
    ids = (*group.context, *(token for part in group.continuations for token in part))
    return refusal(ids, len(group.context) + longest - 1, limits.positions, limits.vocabulary)


@dataclass(slots=True)  # house: a loaded model and its counters
class HfEngine:
    """assay.harness.engines.Engine over one transformers model in memory."""

    ref: ModelRef
    run: Runner
    limits: Limits
    stats: EngineStats
    facts: dict[str, str]
    decoder: Callable[[], TextDecoder]
    name: str = "hf"

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        good = []
        for index, group in enumerate(groups):
            failure = group_refusal(group, self.limits)
            if failure is not None:
                yield index, failure
            else:
                good.append(index)
        chosen = tuple(groups[index] for index in good)
        before = self.stats.computed
        self.stats.logical += logical_tokens(chosen)
        for number, reply in score(self.run, chosen):
            yield good[number], reply
        inputs = logical_tokens(chosen) - sum(len(group.continuations) for group in chosen)
        self.stats.cached += max(0, inputs - (self.stats.computed - before))

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
        good = []
        for index, request in enumerate(requests):
            failure = refusal(request.prompt, len(request.prompt), self.limits.positions, self.limits.vocabulary)
            if failure is not None:
                yield index, failure
            else:
                good.append(index)
        if not good:
            return
        before, inputs = self.stats.computed, 0
        for number, reply in generate(self.run, self.decoder(), tuple(requests[index] for index in good), self.limits.positions):
            index = good[number]
            if isinstance(reply, GenReply):
                self.stats.logical += len(requests[index].prompt) + len(reply.tokens)
                inputs += len(requests[index].prompt) + max(0, len(reply.tokens) - 1)
            yield index, reply
        self.stats.cached += max(0, inputs - (self.stats.computed - before))

    def plain(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        """Score by plain forwards of the library's model, for a proof; the counters do not change."""
        yield from unbatched_replies(self.run.model, groups, self.run.soft)

    def swap(self, weights: Path) -> None:
        if self.ref.adapter is not None:
            raise AssayError("cannot swap the weights of a model with an adapter", where=str(weights), do="open an engine for each adapter")
        swap_weights(self.run.model, self.facts["dtype"], weights)

    def close(self) -> None:
        import torch

        self.run.model = None
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def describe(self) -> dict[str, str]:
        return {**self.facts, "notes": "; ".join(self.stats.notes)}


def choose_budget(wanted: int | None, device: str) -> int:
    """Bytes for caches and packs: half of the free GPU memory, or an eighth of the free CPU memory but at most 2 GiB."""
    if wanted is not None:
        return wanted
    free = free_memory(device)
    return free // 2 if device.startswith("cuda") else min(2 << 30, (free or 8 << 30) // 8)


def measure_kv(model: Any, run: Runner) -> int:
    """Bytes that one token takes in the cache, measured with one token; 0 on the plain route, which keeps no cache."""
    import torch

    if not run.packed:
        return 0
    branches = empty_cache(model, run.attention, run.soft)
    one = torch.zeros(1, dtype=torch.long, device=model.device)
    visible = torch.ones(1, 1 + len(branches), dtype=torch.bool, device=model.device)
    branches.forward(one, one, one, visible, one)
    return branches.bytes_per_token()


def load_decoder(ref: ModelRef, stops: frozenset[int]) -> TextDecoder:
    """The tokenizer of the model or its adapter, for text and stop strings. Raises AssayError if it cannot be read."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder(ref), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise AssayError(
            f"the tokenizer cannot be read: {first_line(error)}", where=str(ref.path), do="fetch the tokenizer files again"
        ) from None
    end = tokenizer.eos_token_id
    return TextDecoder(tokenizer, stops | ({int(end)} if end is not None else set()))


def open_engine(model: ModelRef, settings: Settings) -> HfEngine:
    """Load a model and check the packed route against plain forwards. Raises AssayError if the model cannot be used."""
    waiting = set_passive_wait()
    import torch
    import transformers

    loaded = load(model, settings.dtype, settings.device, parse_arguments(settings.arguments))
    stats = EngineStats()
    on_cpu = loaded.device == "cpu"
    threads = choose_threads()
    if on_cpu:
        torch.set_num_threads(threads)
    else:
        # cuDNN makes a new plan for every shape, and nearly every forward here has another shape.
        torch.backends.cuda.enable_cudnn_sdp(False)
    budget = choose_budget(settings.budget, loaded.device)
    attention = attention_of(loaded.model.get_base_model() if loaded.soft else loaded.model)
    run = Runner(
        model=loaded.model,
        attention=attention,
        stats=stats,
        budget=budget,
        foot=footprint(loaded.model, 0),
        pack=512 if on_cpu else 4096,
        batch=settings.batch or (32 if on_cpu else 128),
        soft=loaded.soft,
    )
    for note in loaded.notes:
        run.note(note)
    if on_cpu:
        run.note(f"{threads} of {cores()} cores, {waiting}")
    if settings.plain:
        check_causal(run, loaded.vocabulary, loaded.dtype)
        run.packed, run.unbatched, run.batch = False, True, 1
        run.note("plain route, batches of one")
    else:
        self_test(run, loaded.vocabulary, loaded.dtype)
    run.foot = footprint(loaded.model, measure_kv(loaded.model, run))
    facts = {
        "engine": "hf",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": loaded.device if on_cpu else torch.cuda.get_device_name(),
        "dtype": loaded.dtype,
        "route": "packed" if run.packed else "plain",
        "threads": str(torch.get_num_threads()),
        "budget": str(budget),
    }
    limits = Limits(loaded.positions, loaded.vocabulary)
    return HfEngine(model, run, limits, stats, facts, functools.cache(lambda: load_decoder(model, loaded.stop_ids)))
