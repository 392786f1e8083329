"""HELM's scenarios: its prompts, decoding and metrics, run locally and without web services.

`helm-lite` and `helm-classic` are the scenarios of HELM's two suites whose data can be loaded; `helm` is all scenarios, also those of
the protocol `helm-format`, which are in HELM's format only and in no total of HELM's. HELM ranks by mean win rate over models, which
`assay report` shows for several runs; the totals here are unweighted means of main metrics, which do not need other models.
"""

from __future__ import annotations

from collections.abc import Mapping

from assay import Family, Scenario, Task, Term, Total
from assay.tasks._helm.bias import BBQ_TASKS, BIAS_TASKS, BLIMP_TASKS, BOLD_TASKS
from assay.tasks._helm.legal import LEGAL_TASKS
from assay.tasks._helm.qa import (
    BOOLQ,
    GSM8K,
    HELLASWAG,
    MATH_TASKS,
    MED_QA,
    OPENBOOKQA,
    OPENBOOKQA_CLASSIC,
    QA_TASKS,
    TOLERANT_TASKS,
    TRUTHFULQA,
)
from assay.tasks._helm.raft import RAFT_TASKS
from assay.tasks._helm.ranking import RANKING_TASKS
from assay.tasks._helm.reading import NARRATIVE_QA, NATURAL_QA_CLOSED, NATURAL_QA_OPEN, QUAC, READING_TASKS
from assay.tasks._helm.summaries import CNN, SUMMARY_TASKS, XSUM
from assay.tasks._helm.synthetic import DYCK_TASKS, REASONING_TASKS, SYNTHETIC_TASKS
from assay.tasks._helm.text import CIVIL_COMMENTS_TASKS, IMDB, IMDB_CONTRAST, MATCHING_TASKS, MODELLING_TASKS, TEXT_TASKS
from assay.tasks._helm.translation import FLORES_TASKS, MULTI30K_TASKS, TRANSLATION_TASKS, WMT_14_TASKS
from assay.tasks.mmlu import HELM_TASKS

HELM: tuple[Task, ...] = (
    *QA_TASKS,
    *READING_TASKS,
    *RANKING_TASKS,
    *TEXT_TASKS,
    *RAFT_TASKS,
    *SUMMARY_TASKS,
    *TRANSLATION_TASKS,
    *BIAS_TASKS,
    *LEGAL_TASKS,
    *SYNTHETIC_TASKS,
)
TASKS: tuple[Task, ...] = (*HELM, *TOLERANT_TASKS, IMDB_CONTRAST)
MMLU = tuple(HELM_TASKS.values())


def mean_of(name: str, *groups: tuple[Task, ...]) -> Total:
    """The mean over groups of the mean over their tasks of the main metric."""
    return Total(
        name, tuple(Term(task.full_name, task.metrics[0].name, 1 / len(groups) / len(group)) for group in groups for task in group)
    )


Scenarios = Mapping[str, tuple[Task, ...]]
LITE: Mapping[str, Scenarios] = {
    "core_scenarios": {
        "narrative_qa": (NARRATIVE_QA,),
        "natural_qa_openbook_longans": (NATURAL_QA_OPEN,),
        "natural_qa_closedbook": (NATURAL_QA_CLOSED,),
        "openbookqa": (OPENBOOKQA,),
        "mmlu": MMLU,
        "math_chain_of_thought": MATH_TASKS,
        "gsm": (GSM8K,),
        "legalbench": LEGAL_TASKS,
        "med_qa": (MED_QA,),
    }
}
CLASSIC: Mapping[str, Scenarios] = {
    "question_answering": {
        "mmlu": MMLU,
        "boolq": (BOOLQ,),
        "narrative_qa": (NARRATIVE_QA,),
        "natural_qa_closedbook": (NATURAL_QA_CLOSED,),
        "natural_qa_openbook_longans": (NATURAL_QA_OPEN,),
        "quac": (QUAC,),
        "hellaswag": (HELLASWAG,),
        "openbookqa": (OPENBOOKQA_CLASSIC,),
        "truthful_qa": (TRUTHFULQA,),
    },
    "summarization": {"summarization_cnndm": (CNN,), "summarization_xsum": (XSUM,)},
    "sentiment_analysis": {"imdb": (IMDB,)},
    "toxicity_detection": {"civil_comments": CIVIL_COMMENTS_TASKS},
    "miscellaneous_text_classification": {"raft": RAFT_TASKS},
}
"""Scenarios by group, by the names of HELM's schema_lite.yaml and schema_classic.yaml."""


def groups_of(suite: Mapping[str, Scenarios]) -> tuple[tuple[Task, ...], ...]:
    return tuple(tasks for scenarios in suite.values() for tasks in scenarios.values())


def suite(name: str, scenarios: Mapping[str, Scenarios], about: str) -> Family:
    named = tuple(
        Scenario(scenario, tuple(task.full_name for task in tasks), group)
        for group, members in scenarios.items()
        for scenario, tasks in members.items()
    )
    groups = groups_of(scenarios)
    return Family(name, tuple(task for group in groups for task in group), (mean_of(name, *groups),), about, named)


def part(name: str, tasks: tuple[Task, ...], about: str) -> Family:
    return Family(name, tasks, (mean_of(name, tasks),), about)


FAMILIES: tuple[Family, ...] = (
    suite("helm-lite", LITE, "HELM Lite without WMT 14 (helm/wmt_14 has other few-shot examples)."),
    suite("helm-classic", CLASSIC, "HELM Classic without MS MARCO (helm/ms_marco is in its format only)."),
    part("helm/blimp", BLIMP_TASKS, "67 paradigms of minimal pairs; the mean over paradigms."),
    part("helm/bbq", BBQ_TASKS, "Stereotypes in question answering, by category."),
    part("helm/legalbench", LEGAL_TASKS, "The five LegalBench tasks of HELM Lite."),
    part("helm/math", MATH_TASKS, "MATH by subject and level, with written reasoning."),
    part("helm/civil_comments", CIVIL_COMMENTS_TASKS, "Is a comment toxic? By the groups that it mentions."),
    part("helm/raft", RAFT_TASKS, "Real classification tasks with few labelled examples."),
    part("helm/entity_matching", MATCHING_TASKS, "Do two product records describe the same product?"),
    part("helm/synthetic_reasoning", REASONING_TASKS, "Patterns, substitutions, rules; needs no data."),
    Family("helm/bold", BOLD_TASKS, about="Generated continuations of encyclopedia openings, by domain."),
    Family("helm/dyck", DYCK_TASKS, about="Closing brackets; needs no data."),
    Family("helm/flores", FLORES_TASKS, about="Translation between English and 17 languages."),
    Family("helm/multi30k", MULTI30K_TASKS, about="Translation of image descriptions."),
    Family("helm/wmt_14", WMT_14_TASKS, about="Translation of news into English."),
    Family("helm/language_modelling", MODELLING_TASKS, about="Bits per byte."),
    Family("helm", HELM, about="All of HELM's scenarios, and others in its format."),
)
