"""The stages one by one, for code that drives them itself (the tuners do): the second half of the public face.

Plan to scores in one call is `harness.evaluate`; whoever trains between the stages needs the tasks, the rendering and the engine apart.
"""

from assay.harness.engines import Engine, Settings
from assay.harness.engines.opening import open_engine
from assay.harness.files.lock import release, take
from assay.harness.files.places import Surroundings, surroundings
from assay.harness.model.find import find_model
from assay.harness.prompt.render import joint_after, render, render_chat
from assay.harness.prompt.tokens import Tokenizer, cut_pairs, open_tokenizer
from assay.harness.run.prepare import default_split
from assay.harness.run.selection import select

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
