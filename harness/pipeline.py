"""The stages one by one, for code that drives them itself (the tuners do): the second half of the public face.

Plan to scores in one call is `harness.evaluate`; whoever trains between the stages needs the tasks, the rendering and the engine apart.
"""

from harness.catalog import select
from harness.engines import Engine, Settings
from harness.engines.opening import open_engine
from harness.model import find_model
from harness.prepare import default_split
from harness.prompt import joint_after, render, render_chat
from harness.provenance import Surroundings, surroundings
from harness.store.lock import release, take
from harness.tokens import Tokenizer, cut_pairs, open_tokenizer

__all__ = [
    "Engine",
    "Settings",
    "Surroundings",
    "Tokenizer",
    "cut_pairs",
    "default_split",
    "find_model",
    "joint_after",
    "open_engine",
    "open_tokenizer",
    "release",
    "render",
    "render_chat",
    "select",
    "surroundings",
    "take",
]
