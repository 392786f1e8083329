"""`lm-eval:NAME` gives what lm-eval itself gives: per document and in total, for every kind of output, filter, mean and chat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import place

from assay import AssayError, Run, read_run
from assay.harness.decide.compare import compare as compare_runs
from assay.harness.decide.compare import side_of
from assay.harness.errors import Incomplete
from assay.harness.files.places import Surroundings
from assay.harness.run.evaluate import resume
from assay.harness.run.scoring.verify import verify
from assay.harness.run.selection import select, select_stored
from assay.harness.store import list_runs
from assay.harness.task.trusted_code import TRUSTED
from assay.tasks._lm_eval.library import load
from assay.tasks._lm_eval.names import indexed, own_names, version
from assay.tasks.lm_eval import search
from tests.harness.prompt.chat_models import CHATML, make_chat_tokenizer
from tests.tasks.lm_eval_peer import Setting, compare, open_peer, ours, theirs

pytestmark = pytest.mark.lm_eval

QUESTIONS = [
    ("What colour is the sky?", ["blue", "green", "a dark red"], 0),
    ("What is two and two?", ["three", "four", "five"], 1),
    ("Where do fish live?", ["in the water", "in trees", "on the moon"], 0),
    ("What do cows drink?", ["milk", "sand", "water"], 2),
    ("Which animal barks?", ["the cat", "the dog", "the hen"], 1),
    ("What is ice?", ["cold", "hot", "loud"], 0),
]
HEAD = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    train: {home}/train.jsonl
    test: {home}/test.jsonl
training_split: train
test_split: test
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
"""
YAML = {
    "choice": """output_type: multiple_choice
doc_to_choice: choices
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: acc_bytes, aggregation: mean, higher_is_better: true}
  - {metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}
  - {metric: brier_score, aggregation: brier_score, higher_is_better: false}
metadata: {version: 2.0}
""",
    "informed": """output_type: multiple_choice
doc_to_choice: choices
doc_to_target: label
metric_list:
  - {metric: acc}
  - {metric: acc_mutual_info}
  - {metric: exact_match}
""",
    "yes_or_no": """output_type: multiple_choice
doc_to_choice: [no, yes]
doc_to_target: "{{1 if label == 1 else 0}}"
metric_list:
  - {metric: acc}
  - {metric: f1}
""".replace("[no, yes]", '["no", "yes"]'),
    "contexts": """output_type: multiple_choice
doc_to_text: label
doc_to_choice: "{{['Is it ' + choices[0] + '?', 'Is it ' + choices[1] + '?', 'Is it ' + choices[2] + '?']}}"
doc_to_target: "Yes, it is."
metric_list:
  - {metric: acc}
""",
    "last_word": """output_type: loglikelihood
doc_to_target: "{{' ' + choices[label]}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "rolling": """output_type: loglikelihood_rolling
doc_to_target: "{{question + ' ' + ' '.join(choices) * (12 if label else 1)}}"
metric_list:
  - {metric: word_perplexity}
  - {metric: byte_perplexity}
  - {metric: bits_per_byte}
""",
    "written": """output_type: generate_until
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["\\n", "Question:"], max_gen_toks: 12, do_sample: false, temperature: 0.0}
repeats: 2
metric_list:
  - {metric: exact_match, ignore_case: true, ignore_punctuation: true}
filter_list:
  - name: strict
    filter: [{function: regex, regex_pattern: "([a-z]+)"}, {function: take_first}]
  - name: vote
    filter: [{function: lowercase}, {function: majority_vote}, {function: take_first}]
""",
    "translated": """output_type: generate_until
doc_to_target: "{{choices[label]}} and {{choices[0]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 10}
metric_list:
  - {metric: bleu}
  - {metric: chrf}
  - {metric: ter}
""",
    "own_code": """output_type: generate_until
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
process_results: !function own.results
metric_list:
  - {metric: letters, aggregation: !function own.spread, higher_is_better: true}
  - {metric: sometimes, aggregation: nanmean, higher_is_better: true}
  - {metric: middle, aggregation: median, higher_is_better: true}
""",
    "prefixed": """output_type: multiple_choice
gen_prefix: "The answer is"
doc_to_choice: choices
doc_to_target: label
metric_list:
  - {metric: acc}
""",
}
OWN = '''"""The task's own code."""

def results(doc, answers):
    text = answers[0]
    return {
        "letters": (len(text), doc["question"], [1, 2]),
        "sometimes": float("nan") if doc["label"] == 0 else float(len(text) % 3),
        "middle": len(text),
    }


def spread(items):
    sizes = [size for size, question, _ in items if question]
    return max(sizes) - min(sizes) + len(sizes) / 10
'''
GROUP = """group: both
task: [choice, informed]
aggregate_metric_list:
  - {metric: acc, weight_by_size: true}
  - {metric: acc, weight_by_size: false}
"""
SHOTS = """num_fewshot: 2
fewshot_config: {sampler: default}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a user's tasks, with their data and code."""
    home = tmp_path_factory.mktemp("yaml")
    rows = [{"question": question, "choices": choices, "label": label} for question, choices, label in QUESTIONS]
    (home / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "train.jsonl").write_text("".join(json.dumps({**row, "question": row["question"][:-1] + " now?"}) + "\n" for row in rows))
    for name, text in YAML.items():
        head = HEAD.format(name=name, home=home)
        own = {line.split(":")[0] for line in text.splitlines()}
        (home / f"{name}.yaml").write_text("".join(line + "\n" for line in head.splitlines() if line.split(":")[0] not in own) + text)
    (home / "shot.yaml").write_text((home / "choice.yaml").read_text().replace("task: choice", "task: shot") + SHOTS)
    (home / "both.yaml").write_text(GROUP)
    (home / "own.py").write_text(OWN)
    return home


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of bytes, with a chat template."""
    import torch
    import transformers

    folder = make_chat_tokenizer(tmp_path_factory.mktemp("model"), CHATML)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"vocab_size": 263, "max_position_embeddings": 512}
    config = transformers.LlamaConfig(**sizes, initializer_range=0.3, bos_token_id=None, eos_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def peer(model: Path) -> Any:
    return open_peer(model)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def there(tmp_path: Path, cache: Path) -> Surroundings:
    """A store of its own; the index of lm-eval's names is made once."""
    return replace(place(tmp_path), cache=cache)


def assert_equal(names: str, setting: Setting, model: Path, peer: Any, there: Surroundings) -> Run:
    """Both tools give equal values per document and in total; returns assay's run."""
    found, _, _ = theirs(peer, names.split(","), there, setting)
    run, _ = ours(model, names.split(","), there, setting)
    rows = compare(found, run)
    assert rows
    for row in rows:
        assert row.differ == row.texts == 0 and row.nats < 1e-3, row
        assert row.ours == pytest.approx(row.theirs, rel=1e-5, abs=1e-9), row
    return run


@pytest.mark.parametrize("name", [*YAML, "shot", "both"])
def test_values_equal_those_of_lm_eval(name: str, home: Path, model: Path, peer: Any, there: Surroundings) -> None:
    run = assert_equal(name, Setting(include=str(home)), model, peer, there)
    assert run.status == "complete" and not verify(there.access())(run)


@pytest.mark.parametrize("name", ["choice", "informed", "contexts", "written", "shot", "prefixed", "last_word"])
def test_chats_equal_those_of_lm_eval(name: str, home: Path, model: Path, peer: Any, there: Surroundings) -> None:
    shots = 2 if name in ("shot", "written") else 0
    assert_equal(name, Setting(include=str(home), chat=True, system="Be brief.", shots=shots), model, peer, there)


def test_few_shot_examples_are_those_of_lm_eval(home: Path, model: Path, peer: Any, there: Surroundings) -> None:
    found, _, _ = theirs(peer, ["choice"], there, Setting(include=str(home), shots=3))
    run, _ = ours(model, ["choice"], there, Setting(include=str(home), shots=3))
    prompts = [each["arguments"][0][0] for each in found["samples"]["choice"]]
    assert [item.prompt for item in run.items()] == prompts and all(prompt.count("Question:") == 4 for prompt in prompts)


def test_a_run_states_what_it_depends_on(home: Path, model: Path, there: Surroundings) -> None:
    run, _ = ours(model, ["choice"], there, Setting(include=str(home)))
    (facts,) = run.manifest["tasks"]
    source = facts["source"]
    assert (source["version"], source["task_version"], source["fewshot_seed"]) == (version(), 2.0, 1234)
    assert facts["version"] == 2 and facts["shots"] == 0 and facts["data"] and len(source["yaml"]) == 24
    (home / "choice.yaml").write_text((home / "choice.yaml").read_text() + "# a comment\n")
    load.cache_clear()
    again, _ = ours(model, ["choice"], there, Setting(include=str(home)))
    assert again.manifest["tasks"][0]["source"]["yaml"] != source["yaml"]
    assert again.manifest["tasks"][0]["fingerprint"] == facts["fingerprint"]  # equal prompts: the runs compare
    sides = [side_of(each, there.access()) for each in (run, again)]
    assert all(row.baseline == row.candidate for row in compare_runs(*sides).rows)


def test_a_finished_run_is_read_and_compared_without_lm_eval(home: Path, model: Path, there: Surroundings) -> None:
    run, _ = ours(model, ["choice", "both"], there, Setting(include=str(home)))
    code = f"""
import sys
from pathlib import Path
sys.modules["lm_eval"] = None
from assay.harness.decide.compare import compare, side_of
from assay.harness.files.places import Access
from assay.harness.run.scoring.results import rescore
from assay.harness.store import read_run
run = read_run(Path({str(run.path)!r}))
access = Access(cache=Path({str(there.cache)!r}))
assert rescore(run, access) == run.summary()["results"], rescore(run, access)
assert {{row.task for row in compare(side_of(run, access), side_of(run, access)).rows}} >= {{"lm-eval:choice", "lm-eval:both"}}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_an_interrupted_run_is_resumed(home: Path, model: Path, there: Surroundings) -> None:
    whole, _ = ours(model, ["choice"], there, Setting(include=str(home)))
    with pytest.raises(Incomplete):
        ours(model, ["choice"], there, Setting(include=str(home)), opener=stopping)
    (bundle,) = (info.path for info in list_runs(there.results) if info.status != "complete")
    resumed = read_run(resume(bundle, there))
    assert [each["value"] for each in resumed.summary()["results"]] == pytest.approx([each["value"] for each in whole.summary()["results"]])


def stopping(name: str, model: Any, settings: Any) -> Any:
    raise Incomplete("the machine stopped", do="resume")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("doc_to_image: picture\n", "shows images"),
        ("doc_to_audio: sound\n", "plays audio"),
        ("unsafe_code: true\n", "outside of assay's sandbox"),
        ("generation_kwargs: {num_beams: 4}\n", "beam search"),
        ("generation_kwargs: {typical_p: 0.2}\n", "no setting 'typical_p'"),
    ],
)
def test_what_cannot_run_is_refused_with_its_reason(change: str, reason: str, home: Path, tmp_path: Path) -> None:
    text = (home / "translated.yaml").read_text()
    if change.startswith("generation"):
        text = text.replace('generation_kwargs: {until: ["\\n"], max_gen_toks: 10}\n', "")
    (tmp_path / "odd.yaml").write_text(text + change)
    with pytest.raises(AssayError, match=reason):
        select([f"lm-eval:{tmp_path / 'odd.yaml'}"], place(tmp_path).access())


def test_code_that_only_a_manifest_names_is_not_run(home: Path, model: Path, there: Surroundings, tmp_path: Path) -> None:
    run, _ = ours(model, ["own_code"], there, Setting(include=str(home)))
    elsewhere = replace(there, cache=tmp_path / "another cache").access()
    TRUSTED.clear()
    with pytest.raises(AssayError, match="not trusted on this machine"):
        select_stored(run.manifest, elsewhere)


def test_unknown_names_are_suggested_and_listed_quickly(there: Surroundings) -> None:
    access = there.access()
    assert len(own_names(access)) > 10_000
    indexed.cache_clear()
    started = time.process_time()
    found = search("arc challenge", access)
    assert time.process_time() - started < 1.0 and "arc_challenge" in {each.name for each in found}
    with pytest.raises(AssayError, match=r"did you mean lm-eval:commonsense_qa\?"):
        select(["commonsense_qa"], access)
    with pytest.raises(AssayError, match="lm-eval has no task 'arc_eazy'"):
        select(["lm-eval:arc_eazy"], access)


@pytest.mark.data
@pytest.mark.model
@pytest.mark.parametrize("name", ["cb", "truthfulqa_mc2", "mmlu_anatomy", "bbh_zeroshot_boolean_expressions"])
def test_real_tasks_equal_lm_eval(name: str, builtin_model: Path, data_root: Path, there: Surroundings) -> None:
    """results/checks/LM_EVAL.md has more of them."""
    setting = Setting(limit=1 if name.startswith("bbh") else 3, shots=2 if name == "mmlu_anatomy" else None)
    assert_equal(name, setting, builtin_model, open_peer(builtin_model), replace(there, data=data_root))


def test_perturbations_are_refused(home: Path, there: Surroundings) -> None:
    with pytest.raises(AssayError, match="its source renders the prompts"):
        select([f"lm-eval:{home / 'choice.yaml'}+typos"], there.access())


def test_a_users_file_is_checked_compared_and_gated(model: Path, there: Surroundings, tmp_path: Path) -> None:
    """The YAML of tasks/LM_EVAL.md, on every command: fifteen lines of a user."""
    guide = (Path(__file__).parents[2] / "tasks" / "LM_EVAL.md").read_text()
    text = guide.split("```yaml islands.yaml\n")[1].split("```")[0]
    assert len(text.splitlines()) <= 15
    (tmp_path / "islands.yaml").write_text(text)
    places = [("Malta", 1), ("Chad", 0), ("Iceland", 1), ("Nepal", 0), ("Cuba", 1), ("Mali", 0)]
    (tmp_path / "islands.jsonl").write_text("".join(json.dumps({"place": name, "answer": answer}) + "\n" for name, answer in places))

    def assay(line: str, code: int = 0) -> str:
        settings = {**os.environ, "ASSAY_CACHE": str(there.cache), "ASSAY_RESULTS": str(tmp_path / "runs"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, "-m", "assay", *line.split()], cwd=tmp_path, env=settings, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    assert "islands" in assay("check lm-eval:islands.yaml")
    options = f"--model {model} --engine hf --dtype float32 --device cpu --json"
    first = json.loads(assay(f"run {options} --tasks lm-eval:islands.yaml"))["run"]
    second = json.loads(assay(f"run {options} --tasks lm-eval:islands --include-path ."))["run"]
    assert "lm-eval:islands" in assay(f"compare {first} {second}")
    assert "lm-eval:islands" in assay(f"gate {second} --baseline {first}", code=11)  # six items decide nothing
    assert assay("store check")
