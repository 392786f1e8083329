"""The transformers engine: every distinct prefix of a call is computed once; see packing.py for how and hf_score.py for the proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.harness.engines import EngineStats, Limits, Settings
from assay.harness.engines.hf.forward import footprint, no_branches, shape_of
from assay.harness.engines.hf.generate import Speaker, generate
from assay.harness.engines.hf.load import first_line, load, swap_weights
from assay.harness.engines.hf.score import Runner, score, self_test
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.engines.threads import choose_threads, cores, wait_quietly
from assay.harness.engines.trie import logical_tokens
from assay.harness.errors import AssayError
from assay.harness.model.find import ModelRef


def refuse(ids: tuple[int, ...], length: int, limits: Limits) -> Failure | None:
    """Why a request cannot be answered at all."""
    if not ids:
        return Failure("the prompt is empty")
    if not 0 <= min(ids) <= max(ids) < limits.vocabulary:
        return Failure(f"token id outside the vocabulary of {limits.vocabulary}")
    if length > limits.positions:
        return Failure(f"{length} tokens, but the model has {limits.positions} positions")
    return None


def refuse_group(group: ScoreGroup, limits: Limits) -> Failure | None:
    longest = max(map(len, group.continuations))
    ids = (*group.context, *(token for part in group.continuations for token in part))
    return refuse(ids, len(group.context) + longest - 1, limits)


@dataclass(slots=True)  # house: a loaded model and its counters
class HfEngine:
    """One model of transformers in memory. See `assay.harness.engines.Engine`."""

    ref: ModelRef
    run: Runner
    limits: Limits
    stats: EngineStats
    facts: dict[str, str]
    speaker: Callable[[], Speaker]
    name: str = field(default="hf")

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        good = []
        for index, group in enumerate(groups):
            failure = refuse_group(group, self.limits)
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
            failure = refuse(request.prompt, len(request.prompt), self.limits)
            if failure is not None:
                yield index, failure
            else:
                good.append(index)
        if not good:
            return
        before, inputs = self.stats.computed, 0
        for number, reply in generate(self.run, self.speaker(), tuple(requests[index] for index in good), self.limits.positions):
            index = good[number]
            if isinstance(reply, GenReply):
                self.stats.logical += len(requests[index].prompt) + len(reply.tokens)
                inputs += len(requests[index].prompt) + max(0, len(reply.tokens) - 1)
            yield index, reply
        self.stats.cached += max(0, inputs - (self.stats.computed - before))

    def swap(self, weights: Path) -> None:
        if self.ref.adapter is not None:
            raise AssayError("weights cannot be swapped under an adapter", where=str(weights), do="open an engine for each adapter")
        swap_weights(self.run.model, self.facts["dtype"], weights)

    def close(self) -> None:
        import torch

        self.run.model = None
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def describe(self) -> dict[str, str]:
        return {**self.facts, "notes": "; ".join(self.stats.notes)}


def choose_budget(wanted: int | None, device: str) -> int:
    """Bytes for caches and packs: half of the free memory of a GPU, an eighth of a machine's but at most 2 GiB."""
    import torch

    if wanted is not None:
        return wanted
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info()[0] // 2)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        free = 8 << 30
    return min(2 << 30, free // 8)


def measure_kv(model: Any, run: Runner) -> int:
    """Bytes that one token takes in the cache, found by putting one there; 0 where the route keeps no cache."""
    import torch

    if not run.packed:
        return 0
    branches = no_branches(model, run.shape, run.soft)
    one = torch.zeros(1, dtype=torch.long, device=model.device)
    visible = torch.ones(1, 1 + len(branches), dtype=torch.bool, device=model.device)
    branches.forward(one, one, one, visible, one)
    return branches.bytes_per_token()


def load_speaker(ref: ModelRef, stops: frozenset[int]) -> Speaker:
    """The tokenizer of the model's folder, for text and stop strings. Raises AssayError."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(ref.path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise AssayError(
            f"the tokenizer cannot be read: {first_line(error)}", where=str(ref.path), do="fetch the tokenizer files again"
        ) from None
    end = tokenizer.eos_token_id
    return Speaker(tokenizer, stops | ({int(end)} if end is not None else set()))


def open_engine(model: ModelRef, settings: Settings) -> HfEngine:
    """Load a model, prove the fast route on it, and be ready. Raises AssayError where the model cannot be used."""
    waiting = wait_quietly()
    import torch
    import transformers

    loaded = load(model, settings.dtype, settings.device)
    stats = EngineStats()
    on_cpu = loaded.device == "cpu"
    threads = choose_threads()
    if on_cpu:
        torch.set_num_threads(threads)
    else:
        # cuDNN plans anew for every shape, and hardly two forwards here have the same one.
        torch.backends.cuda.enable_cudnn_sdp(False)
    budget = choose_budget(settings.budget, loaded.device)
    shape = shape_of(loaded.model.get_base_model() if loaded.soft else loaded.model)
    run = Runner(
        model=loaded.model,
        shape=shape,
        stats=stats,
        budget=budget,
        foot=footprint(loaded.model, 0),
        pack=512 if on_cpu else 4096,
        batch=settings.batch or (32 if on_cpu else 128),
        soft=loaded.soft,
    )
    for note in (
        *loaded.notes,
        *((f"{threads} of {cores()} cores, {waiting}",) if on_cpu else ()),
    ):
        run.note(note)
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
    spoken: list[Speaker] = []
    stops = loaded.stop_ids

    def speaker() -> Speaker:
        if not spoken:
            spoken.append(load_speaker(model, stops))
        return spoken[0]

    limits = Limits(loaded.positions, loaded.vocabulary)
    return HfEngine(model, run, limits, stats, facts, speaker)
