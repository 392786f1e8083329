"""A fake model and fake tasks in the BIG-bench schema. The reference scorer's results for them are in recorded/bigbench.json.

The reference (package `bigbench` 1.0.0 with T5's metrics) was run once with `logprob` and `text` below as its model, on the tasks of
`made_tasks` and on public ones; per task and number of shots its prompts (as a hash) and its scores were kept. One thing was changed
for the run: ROUGE's unseeded bootstrap median was replaced by the mean that it estimates.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any


def number(*parts: str) -> int:
    return int(hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:12], 16)


def logprob(prompt: str, choice: str) -> float:
    """A log-likelihood rounded to a coarse grid, so that some choices tie."""
    return -0.25 * (1 + number(prompt, choice) % 24)


def text(prompt: str, target: str) -> str:
    """The fake model's response: the correct answer, plain, embedded in text or damaged, or another text."""
    words = prompt.split()[-12:] or ["x"]
    draw = random.Random(number(prompt))
    other = " ".join(draw.choices(words, k=4))
    spoilt = " ".join(word for word in target.split() if draw.random() < 0.7)
    forms = [
        target,
        f"{target}. And more",
        f"\n{target}\nQ: {other}",
        f" {target.upper()}",
        spoilt,
        f"{spoilt} {other} . {target}",
        other,
        "",
        f"{target}\n{other}",
        f"{number(prompt) % 40} or so",
    ]
    return forms[number(prompt, "form") % len(forms)]


def _example(draw: random.Random, style: int, index: int) -> dict[str, Any]:
    a, b = draw.randint(2, 19), draw.randint(2, 19)
    names = draw.sample(["oak", "elm", "ash", "fir", "yew", "box"], 4)
    if style == 0:  # numbers as text
        return {"input": f"{a} plus {b} (no. {index})", "target": str(a + b)}
    if style == 1:  # choices with hard scores
        scores = {name: int(name == names[1]) for name in names}
        return {"input": f"Which tree is {names[1][::-1]} backwards? ({index})", "target_scores": scores}
    if style == 2:  # soft scores
        return {"input": f"How near is {a} to {b}? ({index})", "target_scores": {"near": a / 20, "far": 1 - a / 20, "equal": 0.1}}
    if style == 3:  # several right texts
        return {"input": f"Say {names[0]} and {names[2]} ({index})", "target": [f"{names[0]} {names[2]}", f"{names[2]} and {names[0]}"]}
    if style == 4:  # choices, and a text that is none of them
        right = "yes" if a > b else "no"
        return {
            "input": f"Is {a} above {b}? ({index})",
            "target_scores": {"yes": int(a > b), "no": int(a <= b)},
            "target": f"{right}. Because {a} and {b} are {'not ' * (a <= b)}so",
        }
    return {"input": f"tag {' '.join(names)} ({index})", "target": " ".join("B" if name < "fir" else "O" for name in names)}


SETTINGS: tuple[dict[str, Any], ...] = (
    {"style": 0, "metrics": ["exact_str_match"], "preferred_score": "exact_str_match", "output_regex": r"[-+]?\d+"},
    {
        "style": 0,
        "metrics": ["exact_str_match"],
        "preferred_score": "exact_str_match",
        "output_regex": r"([-+]?\d+)[.]{0,1}$",
        "stop_string": "\n",
        "example_input_prefix": "\n",
        "example_output_prefix": " = ",
        "task_prefix": "Add.\n",
    },
    {"style": 0, "metrics": ["numeric_match_with_0_1_relative_error"], "preferred_score": "numeric_match_with_0_1_relative_error"},
    {"style": 0, "metrics": ["case_insensitive_str_match", "bleu"], "preferred_score": "case_insensitive_str_match", "stop_string": "."},
    {"style": 0, "metrics": ["log_likelihood"], "preferred_score": "log_likelihood"},
    {"style": 0, "metrics": ["exact_str_match", "rouge"], "preferred_score": "rougeLsum", "few_shot_example_separator": "\n\n"},
    {"style": 1, "metrics": ["multiple_choice_grade"], "preferred_score": "multiple_choice_grade"},
    {"style": 1, "metrics": ["multiple_choice_grade"], "preferred_score": "multiple_choice_grade", "append_choices_to_input": False},
    {"style": 1, "metrics": ["multiple_choice_grade"], "preferred_score": "multiple_choice_grade", "append_choices_to_input": "false"},
    {"style": 1, "metrics": ["multiple_choice_grade", "macro_f1"], "preferred_score": "macro_f1", "choice_prefix": "\n option: "},
    {"style": 1, "metrics": ["weighted_probabilities"], "preferred_score": "weighted_probabilities", "example_input_prefix": ""},
    {"style": 2, "metrics": ["multiple_choice_grade"], "preferred_score": "multiple_choice_grade"},
    {"style": 2, "metrics": ["weighted_log_probabilities", "multiple_choice_grade"], "preferred_score": "weighted_log_probabilities"},
    {"style": 2, "metrics": ["multiple_choice_grade"], "preferred_score": "calibration_multiple_choice_brier_score"},
    {"style": 3, "metrics": ["exact_str_match", "bleu", "rouge"], "preferred_score": "exact_str_match"},
    {"style": 3, "metrics": ["log_likelihood", "bleu"], "preferred_score": "log_likelihood", "few_shot_example_separator": "\n###"},
    {"style": 3, "metrics": ["case_insensitive_str_match"], "preferred_score": "case_insensitive_str_match", "output_regex": r"\w+ \w+"},
    {"style": 4, "metrics": ["multiple_choice_grade", "rouge", "bleu"], "preferred_score": "multiple_choice_grade"},
    {"style": 4, "metrics": ["multiple_choice_grade", "exact_str_match"], "preferred_score": "exact_str_match", "task_prefix": "Compare:"},
    {"style": 4, "metrics": ["multiple_choice_grade", "log_likelihood"], "preferred_score": "log_likelihood"},
    {"style": 5, "metrics": ["sequence_f1"], "preferred_score": "sequence_f1", "output_regex": r"[A-Z ]+"},
    {"style": 5, "metrics": ["sequence_f1", "exact_str_match"], "preferred_score": "sequence_f1", "stop_string": "\n"},
)


def made_tasks() -> dict[str, dict[str, Any]]:
    """Task files by name; some contain an exact duplicate, which the scorer drops."""
    made = {}
    for place, setting in enumerate(SETTINGS):
        draw = random.Random(place)
        fields = {key: value for key, value in setting.items() if key != "style"}
        examples = [_example(draw, setting["style"], index) for index in range(12 + 5 * (place % 4))]
        examples += examples[:1] * (place % 2)
        made[f"made_{place:02d}"] = {
            "canary": "none: written for a test",
            "name": f"made_{place:02d}",
            "description": "Made up for a test.",
            "keywords": [],
            **fields,
            "examples": examples,
        }
    return made
