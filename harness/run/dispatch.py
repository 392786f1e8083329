"""Puts the requests of prepared items to an engine: each distinct one once, each item given back as soon as it is whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from assay.harness.engines import Engine
from assay.harness.engines.request import GenRequest, ScoreGroup
from assay.harness.errors import Incomplete
from assay.harness.run.prepare import PreparedItem, Request
from assay.harness.run.scoring.measure import Reply


def answer(
    items: Sequence[PreparedItem],
    engine: Engine,
    finished: Callable[[PreparedItem, Sequence[Reply]], None],
    memory: dict[str, Reply],
    shared: frozenset[str],
) -> None:
    """Send every distinct request once; call `finished` with an item as soon as its last reply is there.

    Replies to the keys in `shared` are kept in `memory`, and what is there is not asked. Raises Incomplete where the engine
    leaves a request unanswered.
    """
    replies: dict[str, Reply] = {}
    waiting: dict[str, list[int]] = defaultdict(list)
    missing: list[int] = []
    unique: dict[str, Request] = {}
    keys = [[request.key for request in each.requests] for each in items]
    for number, each in enumerate(items):
        wanted = dict(zip(keys[number], each.requests, strict=True))
        open_keys = [key for key in wanted if key not in memory]
        missing.append(len(open_keys))
        for key in open_keys:
            unique[key] = wanted[key]
            waiting[key].append(number)
        if not open_keys:
            finished(each, [memory[key] for key in keys[number]])

    def arrived(key: str, reply: Reply) -> None:
        replies[key] = reply
        if key in shared:
            memory[key] = reply
        for number in waiting.pop(key):
            missing[number] -= 1
            if missing[number] == 0:
                finished(items[number], [replies[key] if key in replies else memory[key] for key in keys[number]])

    score = [(key, request) for key, request in unique.items() if isinstance(request, ScoreGroup)]
    for position, reply in engine.score([request for _, request in score]) if score else ():
        arrived(score[position][0], reply)
    generate = [(key, request) for key, request in unique.items() if isinstance(request, GenRequest)]
    for position, said in engine.generate([request for _, request in generate]) if generate else ():
        arrived(generate[position][0], said)
    if waiting:
        raise Incomplete(f"the engine left {len(waiting)} requests unanswered", do="resume the run")
