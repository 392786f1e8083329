"""HELM-style scenarios: HELM's prompts, decoding and metrics, run locally and without web services.

`helm-lite` and `helm-classic` are the scenarios of HELM's two suites with open data; `helm` is all scenarios. HELM ranks by mean
win rate over models; the totals here are unweighted means of main metrics, which do not need other models.
"""

from __future__ import annotations

from assay import Family, Task, Term, Total
from assay.tasks._helm.bias import BBQ_TASKS, BIAS_TASKS, BLIMP_TASKS, BOLD_TASKS
from assay.tasks._helm.legal import LEGAL_TASKS
from assay.tasks._helm.qa import (
    BOOLQ,
    GSM8K,
    HELLASWAG,
    MATH,
    NQ_OPEN,
    OPENBOOKQA,
    OPENBOOKQA_CLASSIC,
    QA_TASKS,
    TOLERANT_TASKS,
    TRUTHFULQA,
)
from assay.tasks._helm.synthetic import DYCK_TASKS, REASONING_TASKS, SYNTHETIC_TASKS
from assay.tasks._helm.text import FLORES_TASKS, IMDB, MATCHING_TASKS, MODELLING_TASKS, MULTI30K_TASKS, TEXT_TASKS, XSUM
from assay.tasks.mmlu import HELM_TASKS

HELM: tuple[Task, ...] = (*QA_TASKS, *TEXT_TASKS, *BIAS_TASKS, *LEGAL_TASKS, *SYNTHETIC_TASKS)
TASKS: tuple[Task, ...] = (*HELM, *TOLERANT_TASKS)
MMLU = tuple(HELM_TASKS.values())


def mean_of(name: str, *groups: tuple[Task, ...]) -> Total:
    """The mean over groups of the mean over their tasks of the main metric."""
    return Total(
        name, tuple(Term(task.full_name, task.metrics[0].name, 1 / len(groups) / len(group)) for group in groups for task in group)
    )


LITE = ((NQ_OPEN,), (OPENBOOKQA,), MMLU, (MATH,), (GSM8K,), LEGAL_TASKS)
CLASSIC = (MMLU, (BOOLQ,), (NQ_OPEN,), (HELLASWAG,), (OPENBOOKQA_CLASSIC,), (TRUTHFULQA,), (XSUM,), (IMDB,))


def suite(name: str, groups: tuple[tuple[Task, ...], ...], about: str) -> Family:
    return Family(name, tuple(task for group in groups for task in group), (mean_of(name, *groups),), about)


FAMILIES: tuple[Family, ...] = (
    suite("helm-lite", LITE, "HELM Lite without NarrativeQA, NaturalQuestions with passages, MedQA and WMT 14."),
    suite("helm-classic", CLASSIC, "HELM Classic without NarrativeQA, QuAC, MS MARCO, CNN/DailyMail, CivilComments and RAFT."),
    suite("helm/blimp", (BLIMP_TASKS,), "67 paradigms of minimal pairs; the mean over paradigms."),
    suite("helm/bbq", (BBQ_TASKS,), "Stereotypes in question answering, by category."),
    suite("helm/legalbench", (LEGAL_TASKS,), "The five LegalBench tasks of HELM Lite."),
    suite("helm/entity_matching", (MATCHING_TASKS,), "Do two product records describe the same product?"),
    suite("helm/synthetic_reasoning", (REASONING_TASKS,), "Patterns, substitutions, rules; needs no data."),
    Family("helm/bold", BOLD_TASKS, about="Generated continuations of encyclopedia openings, by domain."),
    Family("helm/dyck", DYCK_TASKS, about="Closing brackets; needs no data."),
    Family("helm/flores", FLORES_TASKS, about="Translation between English and 17 languages."),
    Family("helm/multi30k", MULTI30K_TASKS, about="Translation of image descriptions."),
    Family("helm/language_modelling", MODELLING_TASKS, about="Bits per byte."),
    Family("helm", HELM, about="All HELM-style scenarios."),
)
