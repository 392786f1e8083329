"""The stages of a run as separate functions, for code that trains or scores between them (the tuners).

`assay.evaluate` runs all stages in one call.
"""

from assay.harness.engines import Engine, Settings
from assay.harness.engines.hf.live import open_live
from assay.harness.engines.opening import open_engine
from assay.harness.files.lock import acquire, release
from assay.harness.files.memory import return_freed
from assay.harness.files.places import Surroundings, surroundings
from assay.harness.model.find import find_model
from assay.harness.prompt.render import joint_after, render, render_chat, trimmed
from assay.harness.prompt.tokens import Tokenizer, encode_pairs, open_tokenizer
from assay.harness.run.dispatch import send_requests
from assay.harness.run.prepare import PreparedTask, default_split, prepare_task
from assay.harness.run.scoring.measure import score_item
from assay.harness.run.selection import select
from assay.harness.store import list_runs
from assay.harness.task.matching import Matcher

__all__ = [
    "Engine",
    "Matcher",
    "PreparedTask",
    "Settings",
    "Surroundings",
    "Tokenizer",
    "acquire",
    "default_split",
    "encode_pairs",
    "find_model",
    "joint_after",
    "list_runs",
    "open_engine",
    "open_live",
    "open_tokenizer",
    "prepare_task",
    "release",
    "render",
    "render_chat",
    "return_freed",
    "score_item",
    "select",
    "send_requests",
    "surroundings",
    "trimmed",
]
