"""Files of the shape that lm-eval 0.4.13 writes, about questions of our own; every number follows from a seed."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
CAPITALS = (("Peru", "Lima"), ("Kenya", "Nairobi"), ("Norway", "Oslo"), ("Japan", "Tokyo"), ("Chile", "Santiago"), ("Egypt", "Cairo"))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def row(number: int, doc: Row, target: str, arguments: Sequence[tuple[Any, ...]], resps: Any, filtered: Any, **metrics: Any) -> Row:
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": {f"gen_args_{i}": {f"arg_{j}": each for j, each in enumerate(one)} for i, one in enumerate(arguments)},
        "resps": resps,
        "filtered_resps": filtered,
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": sha(json.dumps(doc)),
        "prompt_hash": sha(str(arguments[0][0])),
        "target_hash": sha(target),
        **metrics,
    }


def choices(task: str, count: int, skill: float, seed: int, measure: Callable[[int, int, int], Row], options: int = 4) -> list[Row]:
    """Questions with options; the right one has the highest log-likelihood with probability `skill`. `measure` gets it, the pick, and the
    pick by log-likelihood per character."""
    rng, found = random.Random(f"{task} {seed}"), []
    for number in range(count):
        gold = number % options
        pick = gold if rng.random() < skill else (gold + 1) % options
        country, capital = CAPITALS[number % len(CAPITALS)]
        prompt = f"Question {number} of {task}: where does one find {capital}?\u2028Answer:"  # a separator that ends no JSON line
        texts = [f" place {place} of {country}{', far away' * 4 * (number % 3 == place)}" for place in range(options)]
        sums = [-1.0 - rng.random() if place == pick else -4.0 - rng.random() for place in range(options)]
        means = [total / (len(text) - 1) for total, text in zip(sums, texts, strict=True)]  # without the space before a choice
        resps = [[[repr(total), str(place == pick)]] for place, total in enumerate(sums)]
        arguments = [(prompt, text) for text in texts]
        doc = {"question": prompt, "country": country, "number": number}
        found.append(
            row(number, doc, str(gold), arguments, resps, [each[0] for each in resps], **measure(gold, pick, means.index(max(means))))
        )
    return found


def generated(count: int, skill: float, seed: int) -> list[Row]:
    """Sums, answered in words; two filters read the number, the strict one fails without its mark."""
    rng, found = random.Random(f"sums {seed}"), []
    for number in range(count):
        gold = str(3 * number + 1)
        number_given = gold if rng.random() < skill else str(3 * number)
        text = f" It is {number_given}." if rng.random() < 0.5 else f" #### {number_given}"
        prompt, kwargs = f"Question: what is {2 * number} plus {number + 1}?\nAnswer:", {"until": ["Question:"], "do_sample": False}
        for name, answer in (("strict-match", number_given if "####" in text else "[invalid]"), ("flexible-extract", number_given)):
            doc = {"question": prompt, "answer": gold}
            made = row(number, doc, gold, [(prompt, kwargs)], [[text]], [answer], exact_match=float(answer == gold))
            found.append({**made, "filter": name})
    return sorted(found, key=lambda each: str(each["filter"]))


def read_aloud(count: int, seed: int) -> list[Row]:
    rng, found = random.Random(f"texts {seed}"), []
    for number in range(count):
        text = " ".join(CAPITALS[(number + place) % len(CAPITALS)][1] for place in range(4 + number))
        total = -3.0 * len(text.split()) * (0.8 + 0.4 * rng.random())
        words, size = [total, len(text.split())], [total, len(text.encode())]
        metrics = {"word_perplexity": words, "byte_perplexity": size, "bits_per_byte": size}
        found.append(row(number, {"page": text}, text, [(text,)], [[repr(total)]], [repr(total)], **metrics))
    return found


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def error(values: Sequence[float]) -> float:
    return math.sqrt(sum((value - mean(values)) ** 2 for value in values) / (len(values) - 1)) / math.sqrt(len(values))


def ratio(pairs: Sequence[Sequence[float]]) -> float:
    return -sum(pair[0] for pair in pairs) / sum(pair[1] for pair in pairs)


def counts(pairs: Sequence[Sequence[int]]) -> tuple[int, int, int, int]:
    """Hits, false alarms, misses and right refusals of label 1."""
    found = [sum(list(pair) == [gold, pick] for pair in pairs) for gold, pick in ((1, 1), (0, 1), (1, 0), (0, 0))]
    return found[0], found[1], found[2], found[3]


def f1(pairs: Sequence[Sequence[int]]) -> float:
    hits, alarms, misses, _ = counts(pairs)
    return 2 * hits / (2 * hits + alarms + misses)


def mcc(pairs: Sequence[Sequence[int]]) -> float:
    hits, alarms, misses, right = counts(pairs)
    spread = (hits + alarms) * (hits + misses) * (right + alarms) * (right + misses)
    return (hits * right - alarms * misses) / math.sqrt(spread)


def samples_of(skill: float, seed: int) -> dict[str, list[Row]]:
    def alone(gold: int, pick: int, norm: int) -> Row:
        return {"acc": float(gold == pick)}

    def both(gold: int, pick: int, norm: int) -> Row:
        return {"acc": float(gold == pick), "acc_norm": float(gold == norm)}

    def pairs(gold: int, pick: int, norm: int) -> Row:
        return {"acc": float(gold == pick), "f1": [gold, pick], "mcc": [gold, pick]}

    return {
        "places": choices("places", 24, skill, seed, both),
        "twins": choices("twins", 60, skill, seed, pairs, options=2),
        "atlas_north": choices("atlas_north", 8, skill, seed, alone),
        "atlas_south": choices("atlas_south", 20, skill, seed, alone),
        "sums": generated(30, skill, seed),
        "texts": read_aloud(6, seed),
    }


def scores_of(rows: Sequence[Row]) -> Row:
    """What lm-eval would write for these samples."""
    found: Row = {}
    for name in dict.fromkeys(each["filter"] for each in rows):
        kept = [each for each in rows if each["filter"] == name]
        for metric in kept[0]["metrics"]:
            values = [each[metric] for each in kept]
            match metric:
                case "f1" | "mcc":
                    score, spread = (f1 if metric == "f1" else mcc)(values), 0.01
                case "word_perplexity" | "byte_perplexity":
                    score, spread = math.exp(ratio(values)), "N/A"
                case "bits_per_byte":
                    score, spread = ratio(values) / math.log(2), "N/A"
                case _:
                    score, spread = mean(values), error(values)
            found |= {f"{metric},{name}": score, f"{metric}_stderr,{name}": spread}
    return found


def write(folder: Path, model: str, skill: float, seed: int = 0, samples: bool = True, limit: float | None = None) -> Path:
    """A results file with, if wanted, its samples; gives the results file."""
    rows = samples_of(skill, seed)
    results: Row = {
        task: {"name": task, "alias": task, "sample_len": len({each["doc_id"] for each in found}), **scores_of(found)}
        for task, found in rows.items()
    }
    members = ("atlas_north", "atlas_south")
    sizes = [results[name]["sample_len"] for name in members]
    whole = sum(size * results[name]["acc,none"] for size, name in zip(sizes, members, strict=True)) / sum(sizes)
    atlas = {"alias": "atlas", "name": "atlas", "sample_len": sum(sizes), "acc,none": whole, "acc_stderr,none": 0.05}
    atlas["sample_count"] = {"acc,none": sum(sizes)}
    higher = {
        task: {metric: "perplex" not in metric and "bits" not in metric for metric in found[0]["metrics"]} for task, found in rows.items()
    }
    document = {
        "results": {**results, "atlas": atlas},
        "groups": {"atlas": atlas},
        "group_subtasks": {"atlas": list(members)},
        "configs": {
            task: {
                "task": task,
                "dataset_path": "acme/geography",
                "dataset_name": task,
                "test_split": "test",
                "metric_list": [{"metric": metric} for metric in found[0]["metrics"]],
                "num_fewshot": 0,
            }
            for task, found in rows.items()
        },
        "versions": {**dict.fromkeys(rows, 1.0), "atlas": "2"},
        "n-shot": {**dict.fromkeys(rows, 0), "atlas": 0},
        "higher_is_better": {**higher, "atlas": {"acc": True}},
        "n-samples": {task: {"original": results[task]["sample_len"], "effective": results[task]["sample_len"]} for task in rows},
        "config": {
            "model": "hf",
            "model_args": {"pretrained": model, "dtype": "float32"},
            "model_num_parameters": 135_000_000,
            "model_dtype": "torch.float32",
            "model_revision": "main",
            "model_sha": sha(model)[:40],
            "limit": limit,
            "bootstrap_iters": 100000,
            "random_seed": 0,
        },
        "git_hash": None,
        "date": 1795473751.4393857 + seed,
        "lm_eval_version": "0.4.13",
        "transformers_version": "5.19.0",
        "max_length": 8192,
        "model_source": "hf",
        "model_name": model,
        "model_name_sanitized": model.replace("/", "__"),
        "chat_template": None,
        "total_evaluation_time_seconds": "135.34260684799847",
    }
    place = folder / model.replace("/", "__")
    place.mkdir(parents=True, exist_ok=True)
    date = f"2026-11-2{seed}T22-44-33.877246"
    path = place / f"results_{date}.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False))
    for task, found in rows.items() if samples else ():
        text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in found)
        (place / f"samples_{task}_{date}.jsonl").write_text(text)
    return path
