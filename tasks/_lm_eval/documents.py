"""From an lm-eval task object to rows with finished prompts: its instances, document by document."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay import Access, AssayError, Doc, Generate, Loglikelihood, Missing, Perplexity, inline
from assay.tasks._lm_eval.library import Reference, is_complete, load, quiet, templates_kept

FEW_SHOT_SEED = 1234
"""lm-eval's default seed of few-shot examples; the plan's random seed is added to it."""
MAX_TOKENS = 256
"""lm-eval's default length of a response."""
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names of the length of a response in generation_kwargs, the first one given counts (lm-eval models/utils.py)."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "top_k": (None, 0, -1),
    "num_return_sequences": (None, 1),
    "use_cache": (None, True, False),
    "repetition_penalty": (None, 1, 1.0),
}
"""Other generation settings that change nothing at these values."""


@dataclass(frozen=True, slots=True)
class LmEvalRows:
    """The documents of one lm-eval task as rows with finished prompts, under a number of few-shot examples, a seed and a chat.

    `default`: the task's own number of few-shot examples; lm-eval lets nobody change a 0 that a task sets.
    """

    reference: Reference
    task: str
    split: str
    described: str
    default: int | None
    shots: int
    seed: int = FEW_SHOT_SEED
    chat: bool = False
    system: str = ""
    one_turn: bool = False

    def at(self, home: Path) -> LmEvalRows:
        return self

    def under(self, shots: int | None, seed: int, chat: bool, system: str, one_turn: bool) -> LmEvalRows:
        count = self.default or 0 if shots is None or self.default == 0 else shots
        return replace(self, shots=count, seed=FEW_SHOT_SEED + seed, chat=chat, system=system, one_turn=one_turn)

    def facts(self) -> dict[str, Any]:
        return {**json.loads(self.described), "fewshot_seed": self.seed}

    def splits(self, access: Access) -> tuple[str, ...]:
        return (self.split,)

    def load(self, split: str, access: Access) -> Any:
        if split != self.split:
            raise Missing(f"lm-eval scores the split {self.split!r}, not {split!r}", do="leave --split out, or use a YAML file of your own")
        task = load(self.reference).tasks[self.task]
        complete = is_complete(task, split, access)
        documents = self.documents(task)
        name = task.config.dataset_name
        origin = f"{task.config.dataset_path}{f'/{name}' if name else ''}/{split} (lm-eval)"
        data = inline(rows=[{"doc": plain(instances[0].doc)} for instances in documents.values()]).load("rows", access).digest
        with templates_kept():
            made = [self.row(task, number, instances) for number, instances in documents.items()]
        rows = inline(rows=made).load("rows", access)
        return replace(rows, origin=origin, digest=data, complete=complete)

    def documents(self, task: Any, limit: int | None = None) -> dict[int, list[Any]]:
        """lm-eval's instances by number of the document, each list in lm-eval's order."""
        with quiet():
            task.set_config("num_fewshot", self.shots)
            task.set_fewshot_seed(seed=self.seed)
            try:
                task.build_all_requests(
                    limit=limit,
                    system_instruction=self.system or None,
                    apply_chat_template=self.chat,
                    fewshot_as_multiturn=self.chat and not self.one_turn,
                    chat_template=messages_as_json if self.chat else None,
                )
            except (Exception, SystemExit) as error:  # the code of a task may raise anything
                what = f"lm-eval cannot build its prompts: {type(error).__name__}: {error!s:.200}"
                raise AssayError(what, where=f"lm-eval:{self.task}", do="run with --shots 0, or fix the YAML file") from error
        found: dict[int, list[Any]] = {}
        for instance in task.instances:
            found.setdefault(int(instance.doc_id), []).append(instance)
        return {number: sorted(each, key=lambda instance: int(instance.idx)) for number, each in found.items()}

    def row(self, task: Any, number: int, instances: Sequence[Any]) -> dict[str, Any]:
        kind = instances[0].request_type
        target = target_of(task, instances[0].doc)
        if kind == "loglikelihood_rolling":
            return {"id": str(number), "prompt": "", "references": [str(instances[0].args[0])]}
        contexts = [str(instance.args[0]) for instance in instances]
        if self.chat and any(context and not context.startswith('[{"role"') for context in contexts):
            raise AssayError("lm-eval does not apply chat templates to it", where=f"lm-eval:{self.task}", do="run without --chat")
        if kind == "generate_until":
            answers = target if isinstance(target, list) else [target]
            return {"id": str(number), "prompt": contexts[0], "references": list(map(str, answers))}
        choices = [str(instance.args[1]) for instance in instances]
        gold = gold_of(task, instances[0].doc, target, choices)
        return {
            "id": str(number),
            "prompt": contexts[0],
            "choices": choices,
            "contexts": contexts if len(set(contexts)) > 1 else [],
            **({"references": [str(target)]} if gold is None else {"gold": gold}),
        }


def messages_as_json(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
    """Stands for the chat template: assay renders the messages itself (see prompt/finished.py)."""
    return json.dumps([{"role": each["role"], "content": each["content"]} for each in messages], ensure_ascii=False)


def read_row(row: Mapping[str, Any]) -> Doc:
    """A row of `LmEvalRows` as a Doc. The number of the document is its id."""
    choices, references, contexts = (tuple(row.get(name, ())) for name in ("choices", "references", "contexts"))
    return Doc(row["prompt"], choices, row.get("gold"), references=references, id=row["id"], contexts=contexts)


def target_of(task: Any, doc: Any) -> Any:
    try:
        return plain(task.doc_to_target(doc))
    except Exception:  # tasks with a metric of their own need no target
        return ""


def gold_of(task: Any, doc: Any, target: Any, choices: Sequence[str]) -> int | None:
    """The position of the correct choice, for display; None where there are several, or none is known."""
    if len(choices) < 2:
        return None
    if getattr(task, "multiple_input", 0):
        target = plain(task.doc_to_text(doc))
    if isinstance(target, str):
        listed = task.doc_to_choice(doc) if getattr(task.config, "doc_to_choice", None) is not None else []
        target = listed.index(target) if target in listed else None
    return target if isinstance(target, int) and not isinstance(target, bool) and 0 <= target < len(choices) else None


def ask_of(name: str, documents: Mapping[int, Sequence[Any]], repeats: int, greedy: bool) -> Loglikelihood | Generate | Perplexity:
    """What an engine does for these instances. Raises AssayError for kinds of requests that cannot be sent at once."""
    kinds = {instance.request_type for each in documents.values() for instance in each}
    if kinds == {"loglikelihood"}:
        return Loglikelihood(greedy=greedy)
    single = all(len(each) == 1 for each in documents.values())
    if kinds == {"loglikelihood_rolling"} and single:
        return Perplexity(whole_last=True)
    if kinds == {"generate_until"} and single:
        return generation_of(name, next(iter(documents.values()))[0].args[1], repeats)
    what = f"cannot be run: one document makes requests of several kinds ({', '.join(sorted(kinds))})"
    raise AssayError(what, where=f"lm-eval:{name}", do="run it with lm-eval, and import its results: assay store import")


def generation_of(name: str, settings: Mapping[str, Any], repeats: int) -> Generate:
    """generation_kwargs as lm-eval understands them (models/utils.py normalize_gen_kwargs). Sampled responses are one item's samples."""
    rest = {key: value for key, value in settings.items() if key not in (*LENGTHS, "until", "do_sample", "temperature", "top_p")}
    if unknown := [key for key, value in rest.items() if value not in NEUTRAL.get(key, ())]:
        what = f"cannot be run: the engines have no setting {unknown[0]!r:.60}"
        raise AssayError(what, where=f"lm-eval:{name}", do="leave it out of generation_kwargs in a YAML file of your own")
    until = settings.get("until") or []
    stops = tuple(dict.fromkeys(text for text in ([until] if isinstance(until, str) else until) if text))
    length = next((int(settings[key]) for key in LENGTHS if settings.get(key) is not None), MAX_TOKENS)
    temperature = float(settings.get("temperature") or 0.0) if settings.get("do_sample") is not False else 0.0
    if not temperature:
        return Generate(length, stops)
    return Generate(length, stops, temperature, repeats, float(settings.get("top_p") or 1.0))


def plain(value: Any) -> Any:
    """A value of a data set or a metric with Python's own numbers and lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(each) for each in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
