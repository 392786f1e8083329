"""What vLLM is asked for one score group, and what its answers tell. Pure; imports no vLLM.

The continuations of a group form a tree of tokens. A probe is one request: its prompt is the context and the way down to one node, and it
asks for chosen tokens right after it (always exact, and the prefix cache helps) and, for continuations of three tokens and more, for the
prompt's own rows. Rows that a cache hit skipped were never computed: they are uninitialised memory and are asked for again, node by node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from assay.harness.engines.request import Failure, ScoreGroup, ScoreReply, TokenIds

WIDEST = 128
"""Most tokens after one prompt that vLLM tells the log-probabilities of."""


@dataclass(frozen=True, slots=True)
class Branches:
    """The continuations of one group as a tree. Node 0 is the context; `tokens`, `parents` and `depths` have one entry per node.

    `ends` holds, for every continuation of the group in order, the node of its last token.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    ends: tuple[int, ...]

    def way(self, node: int) -> list[int]:
        """Nodes from below the context down to `node`."""
        found = []
        while node:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    def prompt(self, context: TokenIds, node: int) -> list[int]:
        return [*context, *(self.tokens[step] for step in self.way(node))]


def grow(continuations: Sequence[TokenIds]) -> Branches:
    tokens, parents, depths, ends = [-1], [-1], [0], []
    child: dict[tuple[int, int], int] = {}
    for ids in continuations:
        node = 0
        for token in ids:
            known = child.get((node, token))
            if known is None:
                known = child[node, token] = len(tokens)
                tokens.append(token)
                parents.append(node)
                depths.append(depths[node] + 1)
            node = known
        ends.append(node)
    return Branches(tuple(tokens), tuple(parents), tuple(depths), tuple(ends))


@dataclass(frozen=True, slots=True)
class Probe:
    """One request: the nodes to read right after `node`, and the nodes above it to read from the prompt's rows.

    `fresh` forbids reading the prefix cache, so that every row is computed.
    """

    node: int
    after: tuple[int, ...]
    rows: tuple[int, ...] = ()
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, by token: log-probabilities right after the prompt, the greedy token there, and the rows of the prompt.

    `rows` maps a position of the prompt to (its token, the token's log-probability, the likeliest token; -1 if not asked for). `cached`:
    prompt tokens that the cache answered.
    """

    after: Mapping[int, float]
    greedy: int
    cached: int
    rows: Mapping[int, tuple[int, float, int]]


def probes(tree: Branches, rows: bool) -> list[Probe]:
    """The requests that tell every node once. Without `rows` there is one per inner node."""
    wanted: dict[int, list[int]] = {0: []}
    ends = set(tree.ends)
    parents_of_ends = {tree.parents[end] for end in ends} | {0}
    for node in range(1, len(tree.tokens)):
        if not rows or tree.parents[node] in parents_of_ends:
            wanted.setdefault(tree.parents[node], []).append(node)
    told = {node for nodes in wanted.values() for node in nodes}
    found = []
    for node, after in wanted.items():
        above = tuple(step for step in tree.way(node) if step not in told) if rows else ()
        told.update(above)
        for start in range(0, len(after), WIDEST):
            found.append(Probe(node, tuple(after[start : start + WIDEST]), above if start == 0 else ()))
    return found


Known = dict[int, tuple[float, bool]]
"""Log-probability of each node's token, and whether it is the greedy one."""


def read(tree: Branches, context: int, probe: Probe, answer: Answer, known: Known) -> tuple[int, ...]:
    """Put what an answer tells into `known`; gives the nodes whose rows are not valid. `context` is the context's length."""
    for node in probe.after:
        token = tree.tokens[node]
        known[node] = answer.after[token], token == answer.greedy
    invalid = []
    for node in probe.rows:
        position = context + tree.depths[node] - 1
        token, logprob, likeliest = answer.rows.get(position, (-1, math.nan, -1))
        # The row before a position predicts it; it was computed only if the cache did not answer it.
        if position <= answer.cached or token != tree.tokens[node]:
            invalid.append(node)
        else:
            known[node] = logprob, token == likeliest
    return tuple(invalid)


def probes_again(tree: Branches, context: int, probe: Probe, invalid: Sequence[int], block: int) -> list[Probe]:
    """Requests for nodes with invalid rows: one per node, or one of the whole prompt without the cache where that is cheaper."""
    if len(invalid) * block >= context + tree.depths[probe.node]:
        return [Probe(probe.node, probe.after, tuple(invalid), fresh=True)]
    return [Probe(tree.parents[node], (node,)) for node in invalid]


def reply_of(tree: Branches, group: ScoreGroup, known: Known) -> ScoreReply | Failure:
    """The reply to a group whose nodes are all known; a Failure where a number is no log-probability."""
    if len(known) < len(tree.tokens) - 1:
        return Failure("vLLM did not tell every token")
    if not all(math.isfinite(logprob) and logprob < 1e-3 for logprob, _ in known.values()):
        return Failure("the model gave NaN or infinite log-probabilities")
    ways = [tree.way(end) for end in tree.ends]
    logprobs = tuple(tuple(known[node][0] for node in way) for way in ways)
    return ScoreReply(logprobs, tuple(all(known[node][1] for node in way) for way in ways) if group.greedy else ())


def refusal(ids: Sequence[int], length: int, positions: int, vocabulary: int) -> Failure | None:
    """Why a sequence of `length` tokens with these ids cannot be asked, if it cannot."""
    if not ids:
        return Failure("the prompt is empty")
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        return Failure(f"token id outside the vocabulary of {vocabulary}")
    if length > positions:
        return Failure(f"{length} tokens, but the model has {positions} positions")
    return None
