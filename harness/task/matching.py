"""Finds items that occur in another set of items too: word for word, with up to two other words, or under another template.

The one matcher of `assay check`, the tuners and the studies. Case, white space and sentence marks do not count; operators, brackets and
digits do. A template is what all items of a set have in common, so that "Question: X Answer:" and "X\\nAnswer with one word." match.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from assay.harness.task.doc import Doc

GRAM = 13
"""Length in words of the n-grams that near duplicates share: the one used for decontamination since GPT-3."""
ALIKE = 0.8
WORDS = 2
"""Near duplicates have at least the Jaccard similarity ALIKE of their 13-grams and at most WORDS different words on either side."""
COMMON = 5
"""A 13-gram in more texts than this belongs to a template or a shared passage."""
SET, SAMPLE = 5, 200
"""A template is read from at least SET different texts, and from at most SAMPLE of them, evenly spaced."""
MOST = 0.95
"""A word belongs to the template if so many texts of the set have it."""
DISTINCT = 6
"""A text of fewer different words is never looked for inside another text: it may occur there by chance."""
RARE, POSTINGS, CANDIDATES = 12, 200, 5
"""Candidates share the most of a text's RARE rarest words, each of which at most POSTINGS texts have."""
LABELS = frozenset(
    {
        *("question", "q", "answer", "ans", "choice", "choices", "option", "options", "passage", "context", "text", "sentence"),
        *("premise", "hypothesis", "problem", "solution", "input", "output", "instruction", "prompt", "response", "completion"),
        *("user", "assistant", "human"),
    }
)
"""Words of templates, for sets that are too small to show theirs."""
APOSTROPHES = re.compile(r"(?<=\w)['’ʼ](?=\w)")
TOKENS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\d+(?:[.,]\d+)*|[^\W\d_]+|[^\s\w]|_")
MARKS = frozenset(".,;:!?\"'`’‘“”„«»…¿¡。、，；：！？「」")
Words = tuple[str, ...]


def normal(text: str) -> str:
    """The text normalised for comparison: NFKC, casefolded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words_of(text: str) -> Words:
    """The words, numbers and symbols of a text without case and sentence marks; a hyphen between letters does not count."""
    joined = re.sub(r"(?<=[^\W\d_])[-‐‑–](?=[^\W\d_])", " ", APOSTROPHES.sub("", normal(text)))
    found = TOKENS.findall(joined)
    return tuple(word for word in found if word not in MARKS) or tuple(found)


def question(doc: Doc) -> tuple[Words, ...]:
    """What makes two items of one task one question: the words of the prompt and of the choices, in any order of the choices.

    Without a prompt the references count too.
    """
    prompt = words_of(doc.prompt)
    return (prompt, *sorted(map(words_of, doc.choices)), *(map(words_of, doc.references) if not prompt else ()))


def golds(doc: Doc) -> tuple[str, ...]:
    """All gold answers, normalised."""
    texts = doc.references if doc.references and not doc.choices else (doc.answer,)
    return tuple(filter(None, map(normal, texts)))


def agree(one: Doc, other: Doc) -> bool:
    """Whether two docs have an answer in common."""
    if one.value is not None or other.value is not None:
        return one.value == other.value
    return bool(set(golds(one)) & set(golds(other))) or not (golds(one) and golds(other))


def grams(words: Words) -> set[int]:
    return {hash(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1)}


class TextIndex:
    """An index of texts by their 13-grams that finds near duplicates."""

    def __init__(self, texts: Iterable[Words]) -> None:
        self.texts = list(texts)
        self.index: dict[int, list[int]] = defaultdict(list)
        for number, text in enumerate(self.texts):
            for gram in grams(text):
                self.index[gram].append(number)

    def sharing(self, text: Words) -> list[int]:
        """The numbers of the three texts that share the most 13-grams with `text`."""
        found = (self.index.get(gram, ()) for gram in grams(text))
        shared = Counter(number for numbers in found if len(numbers) <= COMMON for number in numbers)
        return [number for number, _ in shared.most_common(3)]

    def near(self, text: Words, sharing: Sequence[int]) -> int | None:
        """The number of a near duplicate of `text` among those that share 13-grams with it, or None."""
        own = grams(text) if sharing else set()
        for number in sharing:
            theirs = grams(self.texts[number])
            common = len(own & theirs)
            if common >= ALIKE * (len(own) + len(theirs) - common) and close(text, self.texts[number]):
                return number
        return None


def close(one: Words, other: Words) -> bool:
    """Whether two texts differ in at most WORDS words on either side."""
    left, right = Counter(one), Counter(other)
    return max((left - right).total(), (right - left).total()) <= WORDS


@dataclass(frozen=True, slots=True)
class ItemText:
    """An item as words: its prompt, its own choices in alphabetical order, and its gold answers."""

    prompt: Words
    choices: tuple[Words, ...]
    answers: frozenset[Words]

    @property
    def key(self) -> tuple[Words, ...]:
        return (self.prompt, *sorted(self.choices))

    @property
    def whole(self) -> Words:
        return self.prompt + tuple(word for choice in self.choices for word in choice)


def text_of(doc: Doc, fixed: bool) -> ItemText:
    """`fixed`: all items of the set have these choices, such as A to D or yes and no, so they do not tell items apart."""
    answers = doc.references if doc.references and not doc.choices else (doc.answer,) if doc.labelled else ()
    prompt = doc.prompt if doc.prompt.strip() or doc.choices else " ".join(doc.references)
    return ItemText(words_of(prompt), () if fixed else tuple(map(words_of, doc.choices)), frozenset(map(words_of, answers)))


def texts_of(docs: Sequence[Doc]) -> list[ItemText]:
    fixed = len(docs) > 1 and len({doc.choices for doc in docs}) == 1 and any(doc.prompt.strip() for doc in docs)
    return [text_of(doc, fixed) for doc in docs]


@dataclass(frozen=True, slots=True)
class Template:
    """What the prompts of a set share: the words with which all begin and end, and how often almost all have each word."""

    start: Words = ()
    end: Words = ()
    counts: Counter[str] = field(default_factory=Counter)


def template_of(texts: Sequence[Words]) -> Template:
    """The template of a set; none for a set of fewer than SET different texts."""
    different = list(dict.fromkeys(texts))
    if len(different) < SET:
        return Template()
    step = max(1, len(different) // SAMPLE)
    sample = different[::step][:SAMPLE]
    counts = [Counter(text) for text in sample]
    rank = int((1 - MOST) * len(counts))
    everywhere = set.intersection(*map(set, counts)) if rank == 0 else {word for each in counts for word in each}
    common = Counter({word: least for word in everywhere if (least := sorted(each[word] for each in counts)[rank])})
    return Template(shared_start(sample), shared_start([text[::-1] for text in sample])[::-1], common)


def shared_start(texts: Sequence[Words]) -> Words:
    first, last = min(texts), max(texts)
    size = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), min(len(first), len(last)))
    return first[:size]


class Matcher:
    """Finds the items of one set that other items repeat."""

    def __init__(self, docs: Sequence[Doc]) -> None:
        self.docs = docs
        self.texts = texts_of(docs)
        self.exact: dict[tuple[Words, ...], list[int]] = defaultdict(list)
        self.postings: dict[str, list[int]] = defaultdict(list)
        for number, text in enumerate(self.texts):
            self.exact[text.key].append(number)
            for word in set(text.whole):
                self.postings[word].append(number)
        self.index = TextIndex(text.prompt for text in self.texts)
        self.template = template_of([text.prompt for text in self.texts])

    def matches(self, others: Sequence[Doc]) -> list[tuple[int, int]]:
        """Pairs (number of an item, number of the other that repeats it), in the order of the others."""
        texts = texts_of(others)
        template = template_of([text.prompt for text in texts])
        framed = self.framed_alike(texts, template)
        found = []
        for number, (doc, text) in enumerate(zip(others, texts, strict=True)):
            twins = list(self.exact.get(text.key, ())) if any(text.key) else []
            sharing = self.index.sharing(text.prompt)
            near = self.index.near(text.prompt, sharing)
            if near is not None and (not self.docs[near].labelled or not doc.labelled or agree(self.docs[near], doc)):
                twins.append(near)
            if not twins:  # of two sets with one template, single rows may still have another one
                likely = sharing if framed else self.candidates(text)
                twins = [each for each in likely if self.retold(self.texts[each], text, template)]
            found += [(twin, number) for twin in dict.fromkeys(twins)]
        return found

    def candidates(self, text: ItemText) -> list[int]:
        """The items that share the most of the text's rarest words."""
        known = sorted((len(self.postings[word]), word) for word in set(text.whole) if word in self.postings)
        shared = Counter(number for size, word in known[:RARE] if size <= POSTINGS for number in self.postings[word])
        return [number for number, _ in shared.most_common(CANDIDATES)]

    def framed_alike(self, texts: Sequence[ItemText], template: Template) -> bool:
        """Whether both sets have one template, and both give their choices or neither: then equal items have equal words."""
        own = self.template
        one_form = any(text.choices for text in self.texts) == any(text.choices for text in texts)
        return one_form and own != Template() and (own.start, own.end) == (template.start, template.end)

    def retold(self, item: ItemText, other: ItemText, template: Template) -> bool:
        """Whether two texts are one item under two templates."""
        own = self.template
        return same_but_for_templates(item, own, other, template) or inside(item, own, other, template)


def same_but_for_templates(item: ItemText, own: Template, repeat: ItemText, their: Template) -> bool:
    """Whether the words that only one of two texts has are all words of its template that the other template lacks.

    Few words may stand in other questions too ("the capital of Peru", "the president of Peru"): then the answers must agree.
    """
    one, other = item.whole, repeat.whole
    left, right = Counter(one), Counter(other)
    common = left & right
    surplus = {*(left - right - (own.counts - their.counts)), *(right - left - (their.counts - own.counts))} - LABELS
    content = [word for word in common if word not in LABELS and not own.counts[word] and not their.counts[word]]
    agreed = bool(item.answers & repeat.answers)
    if surplus or not any(map(str.isalpha, content)) or (len(content) < DISTINCT and not agreed):
        return False
    in_order = sum(block.size for block in SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks())
    return in_order >= common.total() * (0.5 if len(content) >= 2 * DISTINCT else 0.9)


def inside(item: ItemText, own: Template, other: ItemText, their: Template) -> bool:
    """Whether one text without its template stands inside the other, word for word, with an answer of the item."""
    question, retold = core(item.prompt, own), core(other.prompt, their)
    same_answer = bool({*item.choices, *item.answers} & other.answers)
    pairs = ((item.prompt, other.answers), (other.prompt, item.answers))
    answered = same_answer or any(run_of(answer, prompt) for prompt, answers in pairs for answer in answers)  # prompts may list choices
    if len(set(question)) >= DISTINCT and run_of(question, other.prompt + tuple(word for text in other.answers for word in text)):
        return answered or len(question) >= GRAM
    return answered and len(set(retold)) >= DISTINCT and run_of(retold, item.prompt)


def core(text: Words, template: Template) -> Words:
    """The text without the words with which all texts of its set begin and end, and without labels at its ends."""
    start, end = len(template.start), len(text) - len(template.end)
    while start < end and text[start] in LABELS:
        start += 1
    while start < end and (text[end - 1] in LABELS or text[end - 1] == "a"):  # as in "Q: ... A:"
        end -= 1
    return text[start:end]


def run_of(part: Words, text: Words) -> bool:
    """Whether the words of `part` stand in `text`, one after another."""
    return f" {' '.join(part)} " in f" {' '.join(text)} "
