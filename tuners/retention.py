"""Tasks of the published studies: retention tasks on which a small base model is clearly above chance, and a short target task.

A model of this size is at chance on most benchmarks, and forgetting cannot be measured at chance. All prompts are ours (protocol
"assay").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from assay import Access, Choose, Doc, Missing, Task, accuracy, hub, inline

Row = Mapping[str, Any]

LANGUAGES = {
    "ces_Latn": "Czech", "nld_Latn": "Dutch", "fin_Latn": "Finnish", "fra_Latn": "French", "deu_Latn": "German",
    "ita_Latn": "Italian", "pol_Latn": "Polish", "por_Latn": "Portuguese", "spa_Latn": "Spanish", "tur_Latn": "Turkish",
}  # fmt: skip
PARADIGMS = (
    "anaphor_number_agreement",
    "distractor_agreement_relational_noun",
    "irregular_plural_subject_verb_agreement_1",
    "npi_present_1",
    "wh_vs_that_no_gap",
    "determiner_noun_agreement_with_adj_irregular_1",
)
SNIPPET = 48


@dataclass(frozen=True, slots=True)
class Interleaved:
    """Alternating rows of several configurations of one data set: row i of the result is row i of configuration i mod their number, with
    the configuration's name. No row number is used twice, so parallel texts are not repeated."""

    repo: str
    configs: tuple[str, ...]
    names: Mapping[str, str]
    """Data set split by our split name."""

    def at(self, home: object) -> Interleaved:
        return self

    def splits(self, access: Access) -> tuple[str, ...]:
        first = hub(self.repo, self.configs[0]).splits(access)
        return tuple(ours for ours, theirs in self.names.items() if theirs in first)

    def load(self, split: str, access: Access) -> Any:
        if split not in self.names:
            raise Missing(f"no split {split!r} (there is: {', '.join(self.names)})", where=self.repo, do="choose another split")
        parts = [hub(self.repo, config).load(self.names[split], access) for config in self.configs]
        made = inline(**{split: self.rows([part.rows for part in parts])}).load(split, access)
        return replace(made, origin=" + ".join(part.origin for part in parts), complete=all(part.complete for part in parts))

    def rows(self, parts: list[tuple[Row, ...]]) -> Iterator[dict[str, Any]]:
        for number in range(min(map(len, parts))):
            which = number % len(parts)
            yield {**parts[which][number], "config": self.configs[which], "number": number}


def language(row: Row) -> Doc:
    """A Doc with the first words of a sentence, about fifty letters, and ten languages as choices."""
    words = row["sentence"][:SNIPPET].rpartition(" ")[0] or row["sentence"][:SNIPPET]
    return Doc(
        f"{words}\nQuestion: Which language is this?\nAnswer:",
        choices=tuple(LANGUAGES.values()),
        gold=list(LANGUAGES).index(row["config"]),
        id=f"{row['config']}-{row['number']}",
    )


def arc(row: Row) -> Doc:
    labels = list(row["choices"]["label"])
    return Doc(
        f"Question: {row['question']}\nAnswer:", choices=tuple(row["choices"]["text"]), gold=labels.index(row["answerKey"]), id=row["id"]
    )


SHOWN = (
    "Question: Which of these do people use to see in the dark?\nAnswer: a flashlight\n\n"
    "Question: What happens to a puddle on a hot, sunny day?\nAnswer: The water evaporates.\n\n"
    "Question: Which animal is a bird?\nAnswer: an owl\n\n"
)
"""Written for this task; no row of a benchmark."""


def arc_shown(row: Row) -> Doc:
    plain = arc(row)
    return replace(plain, prompt=SHOWN + plain.prompt)


def piqa(row: Row) -> Doc:
    return Doc(f"Question: {row['goal']}\nAnswer:", choices=(row["sol1"], row["sol2"]), gold=int(row["label"]))


def minimal_pair(row: Row) -> Doc:
    """A Doc with both sentences as choices. The grammatical one alternates between first and second, so that ties do not count as right."""
    pair = (row["sentence_good"], row["sentence_bad"])
    gold = int(row["number"]) // len(PARADIGMS) % 2
    return Doc("", choices=pair if gold == 0 else pair[::-1], gold=gold, id=f"{row['config']}-{row['pair_id']}")


LANGUAGE = Task(
    name="tuning/language",
    rows=Interleaved("facebook/flores", tuple(LANGUAGES), {"train": "dev", "test": "devtest"}),
    doc=language,
    ask=Choose(),
    metrics=(accuracy,),
    split="test",
    protocol="assay",
    about="Which of ten languages are the first words of a sentence in? (FLORES-200)",
    licence="CC BY-SA 4.0",
    citation="NLLB Team 2022, No Language Left Behind",
)
ARC_EASY = Task(
    name="tuning/arc_easy",
    rows=hub("allenai/ai2_arc", "ARC-Easy"),
    doc=arc,
    ask=Choose(normalize="bytes"),
    metrics=(accuracy,),
    split="test",
    protocol="assay",
    about="Grade-school science, answers ranked by likelihood per byte.",
    licence="CC BY-SA 4.0",
    citation="Clark et al. 2018, Think you have Solved Question Answering? Try ARC",
)
ARC_EASY_SHOWN = replace(
    ARC_EASY,
    name="tuning/arc_easy_shown",
    doc=arc_shown,
    about="ARC-Easy after three fixed question-answer pairs of our own, so that learning the format raises no score.",
)
PIQA = Task(
    name="tuning/piqa",
    rows=hub("ybisk/piqa", "plain_text"),
    doc=piqa,
    ask=Choose(),
    metrics=(accuracy,),
    split="validation",
    protocol="assay",
    about="Which of two ways to reach a goal makes sense?",
    licence="AFL 3.0",
    citation="Bisk et al. 2020, PIQA: Reasoning about Physical Commonsense in Natural Language",
)
BLIMP = Task(
    name="tuning/blimp",
    rows=Interleaved("nyu-mll/blimp", PARADIGMS, {"test": "train"}),
    doc=minimal_pair,
    ask=Choose(),
    metrics=(accuracy,),
    split="test",
    protocol="assay",
    about="Which of two sentences is grammatical? Six alternating paradigms.",
    licence="CC BY 4.0",
    citation="Warstadt et al. 2020, BLiMP: The Benchmark of Linguistic Minimal Pairs for English",
)
TASKS = (LANGUAGE, ARC_EASY, ARC_EASY_SHOWN, PIQA, BLIMP)
