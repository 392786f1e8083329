"""Splits requests into shards along the token trie, for engines that run on several GPUs or nodes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from assay.harness.engines.request import GenRequest, ScoreGroup
from assay.harness.engines.trie import shared_length, sortable

SHARDS = 4
"""Shards per engine: the others then wait for a slow one for at most a quarter of its share."""
Request = ScoreGroup | GenRequest


def shards(requests: Sequence[Request], most: int) -> list[list[int]]:
    """At most `most` ranges of requests in depth-first order of the trie, with similar numbers of own tokens, largest first."""
    keys = [sortable(request.context if isinstance(request, ScoreGroup) else request.prompt) for request in requests]
    order = sorted(range(len(requests)), key=keys.__getitem__)
    paths = [np.frombuffer(keys[index], ">u4") for index in order]
    shared = [0, *(shared_length(left, right) for left, right in pairwise(paths))] if paths else []
    own_tokens = [len(path) - share + added_tokens(requests[index]) for path, share, index in zip(paths, shared, order, strict=True)]
    ends = np.cumsum(own_tokens)
    cuts = [0, *(int(np.searchsorted(ends, ends[-1] * part / most)) for part in range(1, most)), len(order)] if paths else [0]
    found = [(int(sum(own_tokens[begin:stop])), order[begin:stop]) for begin, stop in pairwise(cuts) if stop > begin]
    return [members for _, members in sorted(found, key=lambda pair: -pair[0])]


def added_tokens(request: Request) -> int:
    """Number of tokens that a request adds after its prompt."""
    return request.max_tokens if isinstance(request, GenRequest) else sum(map(len, request.continuations))
