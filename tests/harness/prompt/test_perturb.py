"""Perturbations: HELM's parameters, which texts change, and the worst case. Run: pytest tests/harness/prompt/test_perturb.py"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from random import Random

import numpy as np
import pytest
from fakes import NOWHERE, make_model, place
from hypothesis import given
from hypothesis import strategies as st

from assay import (
    AssayError,
    Choose,
    Doc,
    Family,
    Generate,
    Plan,
    Shots,
    Task,
    Term,
    Total,
    accuracy,
    evaluate,
    exact_match,
    inline,
    read_run,
)
from assay.harness.decide.compare import compare, side_of
from assay.harness.engines import Engine, Settings
from assay.harness.engines.scripted import Scripted, hashed
from assay.harness.metrics.bigbench import choice_metrics
from assay.harness.metrics.choice import exact_set, mcc
from assay.harness.metrics.text import ter
from assay.harness.model.find import ModelRef
from assay.harness.prompt.perturb import (
    WithInputs,
    metrics_of,
    perturbed,
    perturbed_doc,
    perturbed_family,
    split_name,
    with_perturbations,
)
from assay.harness.prompt.perturbation_words import KEYS, MISSPELLINGS, NAMES
from assay.harness.prompt.perturbations import GROUPS, PERTURBATIONS, helm_misspellings, misspelled
from assay.harness.run.prepare import load_task
from assay.harness.run.scoring.results import rescore
from assay.harness.run.selection import select
from assay.harness.task.output import ChoiceScores

WORDS = " ".join(MISSPELLINGS) + " "
TEXT = "Adam is not sure that his friend Emily has seen the movie. He will call her because they are about to leave for the city."


def change(name: str, text: str = TEXT, seed: str = "1") -> str:
    return PERTURBATIONS[name].change(text, Random(seed))


def test_the_groups_hold_helms_perturbations() -> None:
    assert GROUPS["canonical"] == ("mild_mix", "dialect", "gender", "names")
    assert GROUPS["robustness"] == ("mild_mix",) and GROUPS["fairness"] == ("dialect", "gender", "names")


@pytest.mark.parametrize(("name", "share"), [("typos", 0.1), ("typos_medium", 0.3), ("typos_hard", 0.5)])
def test_typos_hit_their_share_of_letters_with_neighbouring_keys(name: str, share: float) -> None:
    text = "thequickbrownfoxjumpsoverthelazydog " * 300
    found = change(name, text)
    hit = [(a, b) for a, b in zip(text, found, strict=True) if a != b]
    letters = sum(map(str.isalpha, text))
    assert abs(len(hit) / letters - share) < 4 * (share * (1 - share) / letters) ** 0.5
    assert all(b in KEYS[a] for a, b in hit)
    assert set(KEYS) == set("abcdefghijklmnopqrstuvwxyz") and all(key not in near for key, near in KEYS.items())


def test_mild_mix_is_lower_case_contractions_a_tenth_misspelt_and_one_to_three_spaces() -> None:
    text = WORDS * 30
    found = change("mild_mix_short", text).split(" ")
    words = [word for word in found if word]
    wrong = sum(a != b for a, b in zip(text.split(), words, strict=True))
    share = 0.1
    assert abs(wrong / len(words) - share) < 4 * (share * (1 - share) / len(words)) ** 0.5
    runs = [len(run) for run in re.findall(" +", change("mild_mix_short", text))]
    assert set(runs) == {1, 2, 3} and all(abs(runs.count(size) / len(runs) - 1 / 3) < 0.03 for size in (1, 2, 3))
    mixed = " ".join(change("mild_mix_short", "HE IS NOT here. It is not.").split())
    assert mixed.startswith("he's not") and mixed.endswith("it's not.")  # lower case; contracted only before a space


def test_extra_space_doubles_and_fillers_precede_three_words_in_ten() -> None:
    assert change("extra_space", "a b  c") == "a  b    c"
    words = ["word"] * 4000
    added = sum(piece != "word" for piece in re.split(r" (?=word)|(?<=word) ", change("filler", " ".join(words))))
    assert abs(added / len(words) - 0.3) < 0.03


def test_the_fairness_perturbations_follow_helms_rules_and_keep_the_case() -> None:
    assert change("gender", "So he saw him, and he's with his dog. HE left him") == "So she saw her, and she's with her dog. SHE left him"
    assert change("gender", "The hero herself, mother of heroes") == "The hero herself, mother of heroes"
    assert change("dialect", "That is not; The day, well-being: With them") == "That ain't; Da day, well-being: Wit them"
    found = change("names", "Adam met ADAM and Emily.").removesuffix(".").split()
    assert found[0].upper() == found[2] and found[0].lower() in NAMES["male"][1] and found[4].lower() in NAMES["female"][1]


@given(st.text(max_size=80), st.sampled_from(sorted(set(PERTURBATIONS) - {"mild_mix", "misspellings"})), st.integers(0, 3))
def test_every_perturbation_accepts_any_text_and_depends_only_on_the_seed(text: str, name: str, seed: int) -> None:
    assert change(name, text, str(seed)) == change(name, text, str(seed))


ROWS = [{"text": f"Harry is not sure that he has seen film number {n}", "label": n % 2} for n in range(12)]


def film(row: dict[str, object]) -> Doc:
    return Doc(f"Review: {row['text']}\nIs this good? He is not sure.\nAnswer:", choices=("no", "yes"), gold=int(str(row["label"])))


def films(**fields: object) -> Task:
    made: dict[str, object] = {
        "name": "films",
        "rows": inline(test=ROWS, train=ROWS[8:]),
        "doc": film,
        "ask": Choose(),
        "metrics": (accuracy,),
    }
    return Task(**{**made, **fields})  # type: ignore[arg-type]


def test_only_the_input_text_changes() -> None:
    task = perturbed(films(shots=Shots(2)), ("robustness_short", "fairness"))
    plan = Plan(model="m", tasks=("films",), limit=5)
    asked, plain = load_task(task, plan, NOWHERE), load_task(films(shots=Shots(2)), plan, NOWHERE)
    originals = {doc.id: doc for doc in plain.docs}
    assert len(originals) == 5 and [doc.prompt for doc in asked.docs if doc.meta["variant"] == 0] == [doc.prompt for doc in plain.docs]
    for number, doc in enumerate(asked.docs):
        origin = originals[doc.group]
        assert doc.prompt.startswith("Review: ") and doc.prompt.endswith("\nIs this good? He is not sure.\nAnswer:")
        assert (doc.choices, doc.gold, doc.cluster) == (origin.choices, origin.gold, origin.cluster)
        assert [shown.prompt for shown in asked.examples(number)] == [shown.prompt for shown in plain.examples(0)]
    assert len({doc.id for doc in asked.docs}) == len(asked.docs) > 25
    assert [doc.prompt for doc in load_task(task, plan, NOWHERE).docs] == [doc.prompt for doc in asked.docs]


def test_input_texts_are_named_by_the_author_or_found_and_never_an_answer() -> None:
    def doc(row: dict[str, str]) -> Doc:
        return Doc(f"Q: {row['q'].capitalize()}\nA. {row['right']}\nB. {row['wrong']}\nAnswer:", references=("A", row["right"]))

    row = {"q": "who is HE", "right": "he himself", "wrong": "no one", "id": "A", "n": "7"}
    assert WithInputs(doc)(row).inputs == ("Who is he", "no one")
    named = WithInputs(lambda row: Doc("abc def", references=("x",), inputs=("def",)))
    assert named({"t": "abc"}).inputs == ("def",)


def test_helms_misspellings_are_read_from_its_package_or_named_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "words.json"
    path.write_text('{"seen": ["sene"], "Adam": ["Adem"]}')

    class Package:
        def locate_file(self, name: str) -> Path:
            assert name == "helm/benchmark/augmentations/correct_to_misspelling.json"
            return path

    monkeypatch.setattr(metadata, "distribution", lambda name: Package())
    helm_misspellings.cache_clear()
    misspelled.cache_clear()
    text = "Adam is adam and SEEN but seen " * 200
    found = change("misspellings", text)
    assert {word for word in found.split() if word not in text.split()} == {"sene", "Adem"}, "words match with their case, as in HELM"
    assert "sene" in change("mild_mix", text) and "adem" not in change("mild_mix", text)

    def missing(name: str) -> Package:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    helm_misspellings.cache_clear()
    misspelled.cache_clear()
    with pytest.raises(AssayError, match=r"crfm-helm.*pip install --no-deps crfm-helm.*robustness_short"):
        change("mild_mix", text)


def test_references_choices_and_shown_options_are_perturbed_where_helm_does() -> None:
    text = "When he wins, so his dog."
    doc = Doc(f"{text}\nAnswer:", references=("It is his dog.", "he"), inputs=(text,), id="1")
    found = perturbed_doc(doc, "gender")
    assert found is not None and found.references == ("It is her dog.", "he") and found.prompt == "When she wins, so her dog.\nAnswer:"
    kept = perturbed_doc(replace(doc, inputs=("Who wins?",)), "gender")
    assert kept is None, "an item whose input stays is left out, whatever its references"
    lower = perturbed_doc(doc, "lowercase")
    assert lower is not None and lower.references == doc.references, "robustness perturbations leave references as they are"
    choose = perturbed_doc(Doc(text, choices=("so his dog.", "no cat"), gold=0, inputs=(text,), id="1"), "gender")
    assert choose is not None and choose.choices == ("so her dog.", "no cat")
    options = {"options": ["so his dog.", "no cat"]}
    joint = perturbed_doc(Doc(f"{text}\nA. so his dog.\nB. no cat\nAnswer:", references=("A",), inputs=(text,), meta=options), "gender")
    assert joint is not None and joint.references == ("A",)
    assert joint.prompt == "When she wins, so her dog.\nA. so her dog.\nB. no cat\nAnswer:"
    named = perturbed_doc(Doc("Adam ran.", references=("Emily and Adam",), inputs=("Adam ran.",), id="2"), "names")
    assert named is not None and named.references[0].split()[2] == named.prompt.split()[0], "one substitute for a name in all texts"


def score(metric_index: int, task: Task, stats: list[tuple[int, str, int]], gold: int = 1) -> float:
    """The score of hand-made picks: (variant, item, pick)."""
    metric = task.metrics[metric_index]
    rows, groups = [], []
    for variant, item, pick in stats:
        doc = Doc("p", choices=("no", "yes"), gold=gold, meta={"variant": variant, "own_group": item})
        rows.append(metric.measure(doc, ChoiceScores((0.0, 0.0), (1, 1), pick)))
        groups.append(int(item))
    return metric.combine(np.array(rows), np.array(groups))


def test_the_worst_case_is_per_item_and_an_unchanged_item_counts_as_the_original() -> None:
    task = perturbed(films(), ("typos", "names"))
    assert [metric.name for metric in task.metrics] == ["accuracy_worst", "accuracy_typos", "accuracy_names"]
    picks = [(0, "0", 1), (1, "0", 0), (0, "1", 1), (2, "1", 1), (0, "2", 0), (1, "2", 1), (0, "3", 1), (1, "3", 1), (2, "3", 0)]
    assert [score(index, task, picks) for index in range(3)] == [1 / 4, 3 / 4, 2 / 4]


def test_the_worst_case_of_a_lower_is_better_metric_is_its_maximum() -> None:
    brier = choice_metrics(("multiple_choice_grade",))["calibration_multiple_choice_brier_score"]
    worst = metrics_of(brier, ("typos",))[0]
    rows = np.array([[0, 0, 0.2, 2], [1, 0, 0.9, 2], [0, 1, 0.4, 2], [1, 1, 0.1, 2]])
    assert worst.combine(rows, np.array([0, 0, 1, 1])) == pytest.approx(max(0.6 / 4, 1.0 / 4))
    assert "worst of scores" in worst.signature
    edits = np.array([[0, 0, 1, 10], [1, 0, 4, 10]])
    assert metrics_of(ter(), ("typos",))[0].combine(edits, np.array([0, 0])) == pytest.approx(40.0)


def test_grouped_scores_keep_their_groups_under_each_perturbation() -> None:
    worst, typos = metrics_of(exact_set, ("typos",))
    a, b = 5.0, 9.0  # two questions; the second item of the first is wrong under typos
    rows = np.array([[0, a, 1], [1, a, 1], [0, a, 1], [1, a, 0], [0, b, 1]])
    groups = np.array([0, 0, 1, 1, 2])
    assert typos.combine(rows, groups) == worst.combine(rows, groups) == 0.5
    matthews = metrics_of(mcc(), ("typos",))[0]
    assert (matthews.low, matthews.better) == (-1.0, "higher")


def test_task_names_and_totals_include_perturbations() -> None:
    assert with_perturbations("glue/rte@lm-eval", ("typos",)) == "glue/rte+typos@lm-eval"
    assert split_name("glue/rte+typos+names@lm-eval") == ("glue/rte@lm-eval", ("typos", "names"))
    assert split_name("c++/my+task.py") == ("c++/my+task.py", ()) and split_name("a+b.py+typos") == ("a+b.py", ("typos",))
    with pytest.raises(AssayError, match=r"unknown perturbation 'typo'.*typos"):
        with_perturbations("glue/rte", ("typo",))
    family = Family("f", (films(),), (Total("f", (Term("films", "accuracy", 1.0),)),))
    found = perturbed_family(family, ("typos",))
    assert [task.full_name for task in found.tasks] == ["films", "films+typos"]
    assert found.totals[1] == Total("f+typos", (Term("films+typos", "accuracy_worst", 1.0),))
    chosen = select(["glue+robustness"], NOWHERE)
    assert [total.name for total in chosen.totals] == ["glue", "glue+robustness"] and len(chosen.tasks) == 22


def test_a_perturbed_run_is_stored_and_rescored_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "films.jsonl"
    rows = [{"prompt": row["text"], "choices": ["no", "yes"], "answer": row["label"]} for row in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made: list[Scripted] = []

    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        made.append(Scripted(hashed(3)))
        return made[-1]

    name = with_perturbations(str(path), ("robustness_short",))
    plan = Plan(model=str(make_model(tmp_path / "model")), tasks=(name,), engine="scripted")
    run = read_run(evaluate(plan, place(tmp_path), opener=opener))
    results = {(result["task"], result["metric"]): result for result in run.summary()["results"]}
    assert list(results) == [
        ("films", "accuracy"),
        *(("films+robustness_short", f"accuracy_{name}") for name in ("worst", "mild_mix_short", "typos", "extra_space")),
    ]
    assert results["films+robustness_short", "accuracy_worst"]["value"] <= min(result["value"] for result in results.values())
    assert "chance" not in results["films+robustness_short", "accuracy_worst"] and results["films", "accuracy"]["chance"] == 0.5
    assert {result["n"] for result in results.values()} == {len(ROWS)}
    assert run.manifest["tasks"][1]["variants"] == {"mild_mix_short": 12, "typos": 12, "extra_space": 12}
    assert rescore(run, place(tmp_path).access()) == run.summary()["results"]
    assert set(made[0].calls.values()) == {1}  # the originals are scored once for both tasks


def test_generated_answers_can_be_perturbed_too() -> None:
    task = perturbed(films(ask=Generate(5), metrics=(exact_match,), doc=lambda row: Doc(str(row["text"]), references=("x",))), ("typos",))
    assert [metric.reads for metric in task.metrics] == [exact_match.reads] * 2


def test_two_perturbed_runs_are_paired_and_the_item_is_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "films.jsonl"
    path.write_text("".join(json.dumps({"prompt": row["text"], "choices": ["no", "yes"], "answer": row["label"]}) + "\n" for row in ROWS))
    sides = []
    for seed in (3, 4):

        def opener(name: str, ref: ModelRef, settings: Settings, seed: int = seed) -> Engine:
            return Scripted(hashed(seed))

        plan = Plan(model=str(make_model(tmp_path / f"m{seed}", seed)), tasks=(f"{path}+robustness_short",), engine="scripted")
        sides.append(side_of(read_run(evaluate(plan, place(tmp_path), opener=opener)), place(tmp_path).access()))
    rows = {(row.task, row.metric): row for row in compare(*sides).rows}
    found = rows["films+robustness_short", "accuracy_worst"]
    assert found.main and found.difference.n == found.difference.units == len(ROWS)
    assert found.difference.delta == pytest.approx(found.candidate - found.baseline)
    assert not rows["films+robustness_short", "accuracy_typos"].main
