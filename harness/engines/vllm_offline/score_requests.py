"""Turns a score group into vLLM requests, and their outputs into a reply. Pure; imports no vLLM.

The continuations of a group form a tree of tokens. A probe is one request: its prompt is the context and the path to one node. It requests
the log-probabilities of chosen tokens right after the prompt (always exact, and the prefix cache is used) and, for continuations of three
or more tokens, those of the prompt's own tokens (its rows). vLLM does not compute rows that were in the cache, so they hold uninitialised
memory; they are requested again, node by node.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from assay.harness.engines.request import Failure, ScoreGroup, ScoreReply, TokenIds

MAX_TOKENS_AFTER = 128
"""Most tokens after one prompt for which vLLM returns log-probabilities."""


@dataclass(frozen=True, slots=True)
class ContinuationTree:
    """The continuations of one group as a tree. Node 0 is the context; `tokens`, `parents` and `depths` have one entry per node.

    `ends` holds, for every continuation of the group in order, the node of its last token.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    ends: tuple[int, ...]

    def path(self, node: int) -> list[int]:
        """The path from the first node below the context to `node`."""
        found = []
        while node:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    def prompt(self, context: TokenIds, node: int) -> list[int]:
        return [*context, *(self.tokens[step] for step in self.path(node))]


def tree_of(continuations: Sequence[TokenIds]) -> ContinuationTree:
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
    return ContinuationTree(tuple(tokens), tuple(parents), tuple(depths), tuple(ends))


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
class ProbeOutput:
    """vLLM's output for one probe: log-probabilities right after the prompt by token, the greedy token there, and the rows of the prompt.

    `rows` maps a position of the prompt to (its token, the token's log-probability, the likeliest token; -1 if not requested). `cached`:
    number of prompt tokens that were in the cache.
    """

    after: Mapping[int, float]
    greedy: int
    cached: int
    rows: Mapping[int, tuple[int, float, int]]


def probes(tree: ContinuationTree, rows: bool) -> list[Probe]:
    """The requests that cover every node once. Without `rows` there is one per inner node."""
    wanted: dict[int, list[int]] = {0: []}
    ends = set(tree.ends)
    parents_of_ends = {tree.parents[end] for end in ends} | {0}
    for node in range(1, len(tree.tokens)):
        if not rows or tree.parents[node] in parents_of_ends:
            wanted.setdefault(tree.parents[node], []).append(node)
    covered = {node for nodes in wanted.values() for node in nodes}
    found = []
    for node, after in wanted.items():
        above = tuple(step for step in tree.path(node) if step not in covered) if rows else ()
        covered.update(above)
        for start in range(0, len(after), MAX_TOKENS_AFTER):
            found.append(Probe(node, tuple(after[start : start + MAX_TOKENS_AFTER]), above if start == 0 else ()))
    return found


NodeScores = dict[int, tuple[float, bool]]
"""Log-probability of each node's token, and whether it is the greedy one."""


def copy_output(tree: ContinuationTree, context: int, probe: Probe, output: ProbeOutput, known: NodeScores) -> tuple[int, ...]:
    """Copy an output into `known`; returns the nodes whose rows are not valid. `context`: length of the context in tokens."""
    for node in probe.after:
        token = tree.tokens[node]
        known[node] = output.after[token], token == output.greedy
    invalid = []
    for node in probe.rows:
        position = context + tree.depths[node] - 1
        token, logprob, likeliest = output.rows.get(position, (-1, math.nan, -1))
        # The row before a position predicts it; it was computed only if it was not in the cache.
        if position <= output.cached or token != tree.tokens[node]:
            invalid.append(node)
        else:
            known[node] = logprob, token == likeliest
    return tuple(invalid)


def retry_probes(tree: ContinuationTree, context: int, probe: Probe, invalid: Sequence[int], block: int) -> list[Probe]:
    """Requests for nodes with invalid rows: one per node, or one for the whole prompt without the cache if that is cheaper."""
    if len(invalid) * block >= context + tree.depths[probe.node]:
        return [Probe(probe.node, probe.after, tuple(invalid), fresh=True)]
    return [Probe(tree.parents[node], (node,)) for node in invalid]


def reply_of(tree: ContinuationTree, group: ScoreGroup, known: NodeScores) -> ScoreReply | Failure:
    """The reply to a group whose nodes are all known; a Failure if a number is not a log-probability."""
    if len(known) < len(tree.tokens) - 1:
        return Failure("vLLM returned no log-probability for a token")
    if not all(math.isfinite(logprob) and logprob < 1e-3 for logprob, _ in known.values()):
        return Failure("the model gave NaN or infinite log-probabilities")
    paths = [tree.path(end) for end in tree.ends]
    logprobs = tuple(tuple(known[node][0] for node in path) for path in paths)
    return ScoreReply(logprobs, tuple(all(known[node][1] for node in path) for path in paths) if group.greedy else ())
