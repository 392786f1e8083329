"""Generates with a transformers model.

Packed: the trie of all prompts is computed once and every response is a branch of it; one forward per step extends all unfinished ones.
Plain: the model's own cache, with prompts of equal length in one batch.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from assay.harness.engines.hf.forward import BranchCache, first_line, out_of_memory
from assay.harness.engines.hf.packing import ancestor_mask
from assay.harness.engines.hf.score import FAILURES, SMALLEST, Runner
from assay.harness.engines.hf.unbatched import NO_MEMORY, NOT_FINITE
from assay.harness.engines.request import Failure, GenReply, GenRequest, TokenIds
from assay.harness.engines.text import TextDecoder, cut
from assay.harness.engines.trie import Trie, distinct_prefixes, of_prompts, sortable

IndexedReply = tuple[int, GenReply | Failure]
LONG = 512
"""Tokens of a prompt from which packing costs a CPU more than it saves, if nothing is shared: its mask hides what it computes."""


@dataclass(slots=True)  # house: a response while it is generated
class Draft:
    """One response while it is generated."""

    request: GenRequest
    decoder: TextDecoder
    limit: int
    """Most tokens that it may have."""
    generator: Any = None
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    reply: GenReply | Failure | None = None

    def add(self, token: int, logprob: float) -> None:
        """Append a token; sets `reply` if it ends the response."""
        if not math.isfinite(logprob):
            self.reply = NOT_FINITE
            return
        self.ids.append(token)
        self.logprob += logprob
        ended = token in self.decoder.ends(self.request) or self.has_stop()
        if ended or len(self.ids) >= self.limit:
            text = self.decoder.response(self.request, tuple(self.ids))
            self.reply = GenReply(text, tuple(self.ids), "stop" if ended else "length", self.logprob)

    def has_stop(self) -> bool:
        """Whether the last tokens completed a stop string. Decodes the tail first: decoding all takes linear time."""
        if not self.request.stop:
            return False
        # A character takes at most four byte tokens; the margin covers a character that the tail's start splits.
        tail = 4 * max(map(len, self.request.stop)) + 8
        if cut(self.decoder.text(self.request.prompt if len(self.ids) <= tail else (), tuple(self.ids[-tail:])), self.request.stop) is None:
            return False
        return cut(self.decoder.text(self.request.prompt, tuple(self.ids)), self.request.stop) is not None


def draft(request: GenRequest, decoder: TextDecoder, positions: int) -> Draft:
    """An empty response. It is finished at once if no token may be generated."""
    import torch

    limit = min(request.max_tokens, positions - len(request.prompt))
    generator = torch.Generator().manual_seed(request.seed) if request.temperature > 0 else None
    reply = GenReply("", (), "length", 0.0) if limit <= 0 else None
    return Draft(request, decoder, limit, generator, reply=reply)


def choose(drafts: list[Draft], logits: Any) -> list[int]:
    """Pick the next token of each draft from its row of logits [b, vocabulary] and add it. Log-probabilities are at temperature 1."""
    import torch

    with torch.inference_mode():
        wide = logits.float()
        picked = wide.argmax(-1)
        for row, one in enumerate(drafts):
            if one.generator is not None and bool(wide[row].isfinite().all()):
                weights = nucleus((wide[row] / one.request.temperature).softmax(-1).cpu(), one.request.top_p)
                picked[row] = torch.multinomial(weights, 1, generator=one.generator).to(picked.device)[0]
        values = wide.gather(-1, picked[:, None])[:, 0] - wide.logsumexp(-1)
        tokens, logprobs = picked.tolist(), values.tolist()
    for one, token, logprob in zip(drafts, tokens, logprobs, strict=True):
        one.add(token, logprob)
    return list(tokens)


def nucleus(weights: Any, top_p: float) -> Any:
    """The probabilities [vocabulary] with 0 outside the smallest set of likeliest tokens that has at least `top_p` of them together."""
    if top_p >= 1:
        return weights
    ordered, places = weights.sort(descending=True, stable=True)
    ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
    return ordered.new_zeros(ordered.shape).scatter(-1, places, ordered)


def generate(run: Runner, decoder: TextDecoder, requests: tuple[GenRequest, ...], positions: int) -> Iterator[IndexedReply]:
    """Replies to all requests, in any order."""
    live = []
    drafts = [draft(request, decoder, positions) for request in requests]
    for index, one in enumerate(drafts):
        if one.reply is not None:
            yield index, one.reply
        else:
            live.append(index)
    # LongRoPE changes every position of a sequence that grows beyond its switch; the library's own loop handles that.
    switch = run.attention.switch
    fits = [not switch or len(drafts[index].request.prompt) + drafts[index].limit <= switch for index in live]
    packing = run.packed and pays(run, [request.prompt for request in requests])
    waiting = dict.fromkeys(index for index, fit in zip(live, fits, strict=True) if fit and packing)
    order = tuple(waiting)
    try:
        for number, reply in generate_packed(run, [drafts[index] for index in order]):
            del waiting[order[number]]
            yield order[number], reply
    except FAILURES as error:
        run.packed = False
        run.note(f"plain route: packing failed ({type(error).__name__}: {first_line(error)})")
    packed = set(order)
    rest = [index for index in live if index in waiting or index not in packed]
    for index in rest:
        restart(drafts[index])
    for number, reply in generate_plain(run, [drafts[index] for index in rest]):
        yield rest[number], reply


def pays(run: Runner, prompts: Sequence[TokenIds]) -> bool:
    """Whether packing pays: always on a GPU; on a CPU unless prompts are long and share less than a tenth (see results/speed)."""
    if run.model.device.type != "cpu" or not prompts or sum(map(len, prompts)) < LONG * len(prompts):
        return True
    if 10 * distinct_prefixes(map(sortable, prompts)) < 9 * sum(map(len, prompts)):
        return True
    run.note("long prompts that share little: texts by the library's own loop")
    return False


def finish(one: Draft) -> GenReply | Failure:
    """The reply of a draft; a Failure if it has none."""
    return one.reply if one.reply is not None else NO_MEMORY


def restart(one: Draft) -> None:
    """Discard what was generated, so that the response can be generated again in a smaller batch."""
    one.ids, one.logprob, one.reply = [], 0.0, None
    if one.generator is not None:
        one.generator.manual_seed(one.request.seed)


@dataclass(slots=True)  # house: holds the cache of a generation
class PromptCache:
    """The trie of all prompts on the device, and the keys and values of a part of it."""

    run: Runner
    ids: Any
    depth: Any
    end: Any
    """One entry more than tokens: generated tokens carry the last one as their slot, which has no descendants."""
    branches: BranchCache

    def read(self, begin: int, stop: int, rows: list[int]) -> dict[int, Any]:
        """Compute tokens begin..stop in packs; the logits [vocabulary] of `rows`."""
        import torch

        found: dict[int, Any] = {}
        while begin < stop:
            upto = min(stop, begin + self.run.capacity(len(self.branches)).tokens)
            here = [row for row in rows if begin <= row < upto]
            span = torch.arange(begin, upto, device=self.ids.device)
            visible = ancestor_mask(span, torch.cat([self.branches.slots, span]), self.end)
            wanted = torch.as_tensor([row - begin for row in here] or [0], device=self.ids.device)
            try:
                logits = self.run.branch(self.branches, self.ids[begin:upto], span, self.depth[begin:upto], visible, wanted)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or upto - begin <= SMALLEST:
                    raise
                self.run.pack = (upto - begin) // 2
                self.run.note(f"out of memory: packs halved to {self.run.pack} tokens")
                continue
            found.update(zip(here, logits, strict=False))
            begin = upto
        return found

    def keep_ancestors(self, token: int) -> None:
        """Keep exactly the ancestors of a token in the cache, computing those that are missing."""
        import torch

        if len(self.branches):
            self.branches.keep((self.branches.slots < token) & (self.end[self.branches.slots] > token))
        index = torch.arange(len(self.ids), device=self.ids.device)
        missing = index[(index < token) & (self.end[:-1] > token)][len(self.branches) - self.branches.virtual :]
        size = self.run.capacity(0).tokens
        for part in missing.split(size) if len(missing) else ():
            visible = ancestor_mask(part, torch.cat([self.branches.slots, part]), self.end)
            self.run.branch(self.branches, self.ids[part], part, self.depth[part], visible, part[:1] * 0)


def prompt_cache(run: Runner, trie: Trie) -> PromptCache:
    import torch

    device = run.model.device
    ids, depth = (torch.as_tensor(part, device=device) for part in (trie.ids, trie.depth))
    end = torch.as_tensor(np.append(trie.end, len(trie)), device=device)
    return PromptCache(run, ids, depth, end, run.branches())


def generate_packed(run: Runner, drafts: list[Draft]) -> Iterator[IndexedReply]:
    """Batches of neighbours in the trie of prompts; the prefix shared with the next batch stays in the cache."""
    if not drafts:
        return
    trie = of_prompts([one.request.prompt for one in drafts])
    cache, full_batch = prompt_cache(run, trie), run.batch
    queue = deque(np.argsort(trie.rows, kind="stable").tolist())
    done = 0
    while queue:
        batch = next_batch(run, queue, drafts, trie, done)
        begin = min(done, int(trie.rows[batch[0]]))
        try:
            cache.keep_ancestors(begin)
            done = int(trie.rows[batch[-1]]) + 1
            after = min(done, int(trie.rows[queue[0]])) if queue else len(trie)
            generate_batch(cache, [drafts[index] for index in batch], [int(trie.rows[index]) for index in batch], (begin, after))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            done = begin
            cache.branches = run.branches()
            if len(batch) > 1:
                for index in batch:
                    restart(drafts[index])
                run.halve_batch(batch, queue)
                continue
            # This request does not fit alone; others may. The prefix that they share with it is computed again.
            drafts[batch[0]].reply, run.batch, done = NO_MEMORY, full_batch, int(trie.rows[batch[0]]) + 1
        for index in batch:
            yield index, finish(drafts[index])


def next_batch(run: Runner, queue: deque[int], drafts: list[Draft], trie: Trie, done: int) -> list[int]:
    """The next requests in depth-first order whose prompts and responses fit into the cache together.

    Every response attends over all keys of the batch, masked, so the number of keys is limited more than by memory.
    """
    batch = [queue.popleft()]
    answers = drafts[batch[0]].limit
    keys = min(run.capacity(0).keys, 8 * run.pack) - trie.deepest
    while queue and len(batch) < run.batch:
        answers += drafts[queue[0]].limit
        if answers + int(trie.rows[queue[0]]) + 1 - done > keys:
            break
        batch.append(queue.popleft())
    return batch


def generate_batch(cache: PromptCache, drafts: list[Draft], rows: list[int], span: tuple[int, int]) -> None:
    """Compute the prompts of a batch, then add one token to every unfinished response per forward.

    `span`: the first token to compute, and the first of the next batch, whose ancestors stay in the cache.
    """
    import torch

    branches, device = cache.branches, cache.ids.device
    first = cache.read(span[0], rows[-1] + 1, sorted(set(rows)))
    tokens = choose(drafts, torch.stack([first[row] for row in rows]))
    after = torch.as_tensor([span[1]], device=device)
    visible = ancestor_mask(torch.as_tensor(rows, device=device), branches.slots, cache.end)
    depth = cache.depth[torch.as_tensor(rows, device=device)]
    live = list(range(len(drafts)))
    while True:
        going = [place for place, index in enumerate(live) if drafts[index].reply is None]
        live = [live[place] for place in going]
        if not live:
            return
        where = torch.as_tensor(going, device=device)
        visible, depth, ids = visible[where], depth[where] + 1, torch.as_tensor(tokens, device=device)[where]
        used = visible.any(0) | ancestor_mask(after, branches.slots, cache.end)[0]
        if int(used.sum()) * 2 < len(branches):
            branches.keep(used)
            visible = visible[:, used]
        visible = torch.cat([visible, torch.eye(len(live), dtype=torch.bool, device=device)], 1)
        slots = torch.full_like(ids, len(cache.ids))
        every = torch.arange(len(live), device=device)
        tokens = choose([drafts[index] for index in live], cache.run.branch(branches, ids, slots, depth, visible, every))


def generate_plain(run: Runner, drafts: list[Draft]) -> Iterator[IndexedReply]:
    """Prompts of equal length together, with the model's own cache: works for every architecture."""
    order = sorted(range(len(drafts)), key=lambda index: len(drafts[index].request.prompt))
    queue, full_batch = deque(order), run.batch
    while queue:
        batch = [queue.popleft()]
        length = len(drafts[batch[0]].request.prompt)
        most = 1 if run.one_by_one else run.batch
        while queue and len(batch) < most and len(drafts[queue[0]].request.prompt) == length:
            batch.append(queue.popleft())
        try:
            (continue_batch if run.cached else continue_uncached)(run, [drafts[index] for index in batch])
        except (*FAILURES, MemoryError) as error:
            if not out_of_memory(error):
                if not run.cached:
                    raise
                run.cached = False
                run.note(f"generation without a cache: the model's own failed ({type(error).__name__}: {first_line(error)})")
                for index in batch:
                    restart(drafts[index])
                queue.extendleft(reversed(batch))
                continue
            if len(batch) > 1:
                for index in batch:
                    restart(drafts[index])
                run.halve_batch(batch, queue)
                continue
            drafts[batch[0]].reply, run.batch = NO_MEMORY, full_batch
        for index in batch:
            yield index, finish(drafts[index])


def continue_uncached(run: Runner, drafts: list[Draft]) -> None:
    """Compute each whole sequence again for every token: for models whose own generation loop fails."""
    while live := [one for one in drafts if one.reply is None]:
        sequences = [(*one.request.prompt, *one.ids) for one in live]
        choose(live, run.plain(sequences, [len(sequences[0]) - 1])[:, 0])


def continue_batch(run: Runner, drafts: list[Draft]) -> None:
    """Run the model's own generation loop; a logits processor chooses every token here."""
    import torch
    import transformers

    prompts = torch.as_tensor([one.request.prompt for one in drafts], device=run.model.device)
    width = [prompts.shape[1]]

    def force(_: Any, scores: Any) -> Any:
        live = [row for row, one in enumerate(drafts) if one.reply is None]
        tokens = choose([drafts[row] for row in live], scores[live])
        forced = torch.full_like(scores, -torch.inf)
        forced[:, 0] = 0
        for row, token in zip(live, tokens, strict=True):
            forced[row, 0], forced[row, token] = -torch.inf, 0
        run.stats.forwards += 1
        run.stats.computed += len(drafts) * width[0]
        width[0] = 1
        return forced

    def ended(ids: Any, _: Any, **__: Any) -> Any:
        return torch.tensor([one.reply is not None for one in drafts], device=ids.device)

    longest = max(one.limit for one in drafts)
    with warnings.catch_warnings():
        # peft warns that it sets position ids itself, which is intended.
        warnings.filterwarnings("ignore", message="Position ids are not supported")
        run.model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            generation_config=transformers.GenerationConfig(max_new_tokens=longest, do_sample=False, pad_token_id=0, eos_token_id=None),
            logits_processor=transformers.LogitsProcessorList([force]),
            stopping_criteria=transformers.StoppingCriteriaList([ended]),
        )
