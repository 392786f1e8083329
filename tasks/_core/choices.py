"""Tasks of the core suite whose answers are ranked by likelihood, each with the prompts and metrics of lm-eval 0.4.13.

lm-eval's acc_norm is `accuracy_chars`: the log-likelihood per character of the choice. The first of equal choices counts.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from assay import Choose, Doc, Layout, Loglikelihood, Shots, Task, Worked, accuracy, hub
from assay.harness.metrics.choice import accuracy_per, correct_probability
from assay.harness.metrics.likelihood import continuation_perplexity, greedy_accuracy, likeliest_accuracy

if TYPE_CHECKING:
    from assay.harness.task.doc import Row

RANK = Choose(ties="first")
NORMED = (accuracy_per("chars"), accuracy)
TRAIN = Shots(0, "train")


def lettered_choices(row: Row, prompt: str, question: str) -> Doc:
    """Choices as ARC and OpenBookQA store them: texts with labels, and the label of the gold one."""
    gold = list(row["choices"]["label"]).index(row["answerKey"].lstrip())
    return Doc(prompt, choices=tuple(row["choices"]["text"]), gold=gold, inputs=(question,))


def arc(row: Row) -> Doc:
    return lettered_choices(row, f"Question: {row['question']}\nAnswer:", row["question"])


def arc_task(name: str, config: str, about: str) -> Task:
    return Task(
        name=name,
        rows=hub("allenai/ai2_arc", config, revision="210d026faf9955653af8916fad021475a3f00453"),
        doc=arc,
        ask=RANK,
        metrics=NORMED,
        split="test",
        shots=TRAIN,
        protocol="lm-eval",
        worked=(
            Worked(
                {
                    "id": "own-1",
                    "question": "What do bees make?",
                    "choices": {"text": ["milk", "honey", "wool"], "label": ["A", "B", "C"]},
                    "answerKey": "B",
                },
                "Question: What do bees make?\nAnswer:",
                "honey",
            ),
        ),
        about=about,
        licence="CC BY-SA 4.0",
        citation="Clark et al. 2018, Think you have Solved Question Answering? Try ARC, the AI2 Reasoning Challenge",
    )


ARC_EASY = arc_task("arc_easy", "ARC-Easy", "Questions of school science exams, the easier part.")
ARC_CHALLENGE = arc_task(
    "arc_challenge", "ARC-Challenge", "Questions of school science exams that retrieval and word co-occurrence answered wrongly."
)


def clean(text: str) -> str:
    """A HellaSwag text without the marks of WikiHow's articles."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def hellaswag(row: Row) -> Doc:
    prompt = clean(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    gold, endings = int(row["label"]) if row["label"] != "" else None, tuple(map(clean, row["endings"]))
    meta = {"double_space": True} if any(ending.startswith(" ") for ending in endings) else {}  # left by a mark at the start, as in lm-eval
    return Doc(prompt, choices=endings, gold=gold, meta=meta, inputs=(prompt,))


HELLASWAG = Task(
    name="hellaswag",
    rows=hub("Rowan/hellaswag", revision="218ec52e09a7e7462a5400043bb9a69a41d06b76"),
    doc=hellaswag,
    ask=RANK,
    metrics=NORMED,
    split="validation",
    shots=TRAIN,
    protocol="lm-eval",
    worked=(
        Worked(
            {
                "activity_label": "Baking",
                "ctx_a": "[header] How to bake bread [title] Mix flour and water.",
                "ctx_b": "the cook",
                "endings": ["kneads the [step] dough.", "swims away.", "paints it.", "sings to the moon."],
                "label": "0",
            },
            "Baking: How to bake bread. Mix flour and water. The cook",
            "kneads the dough.",
        ),
    ),
    about="How does the scene continue? Four endings, ranked by log-likelihood per character (acc_norm).",
    licence="MIT",
    citation="Zellers et al. 2019, HellaSwag: Can a Machine Really Finish Your Sentence?, ACL",
)


def piqa(row: Row) -> Doc:
    gold = int(row["label"]) if row["label"] in (0, 1) else None
    return Doc(f"Question: {row['goal']}\nAnswer:", choices=(row["sol1"], row["sol2"]), gold=gold, inputs=(row["goal"],))


PIQA = Task(
    name="piqa",
    rows=hub("baber/piqa", former=("ybisk/piqa", "plain_text"), revision="142f6d7367fd9877f0fb3b5734ea6a545f54cdd1"),
    doc=piqa,
    ask=RANK,
    metrics=NORMED,
    split="validation",
    shots=TRAIN,
    protocol="lm-eval",
    worked=(
        Worked(
            {"goal": "Dry a wet shoe.", "sol1": "Stuff it with newspaper.", "sol2": "Stuff it with snow.", "label": 0},
            "Question: Dry a wet shoe.\nAnswer:",
            "Stuff it with newspaper.",
        ),
    ),
    about="Which of two ways reaches an everyday goal?",
    licence="AFL-3.0",
    citation="Bisk et al. 2020, PIQA: Reasoning about Physical Commonsense in Natural Language, AAAI",
)


def winogrande(row: Row) -> Doc:
    """The sentence up to and with each option is a context; what is scored is the rest of the sentence, the same after both."""
    before, _, after = row["sentence"].partition("_")
    contexts = (before + row["option1"], before + row["option2"])
    gold = int(row["answer"]) - 1 if row["answer"] else None
    return Doc(contexts[0], choices=(after.strip(),) * 2, gold=gold, contexts=contexts, inputs=(before,) if before.strip() else ())


WINOGRANDE = Task(
    name="winogrande",
    rows=hub("allenai/winogrande", "winogrande_xl", revision="01e74176c63542e6b0bcb004dcdea22d94fb67b5"),
    doc=winogrande,
    ask=Loglikelihood(),
    metrics=(likeliest_accuracy,),
    split="validation",
    shots=TRAIN,
    protocol="lm-eval",
    worked=(
        Worked(
            {"sentence": "The mug broke the shelf because the _ was heavy.", "option1": "mug", "option2": "shelf", "answer": "1"},
            "The mug broke the shelf because the mug",
            "was heavy.",
        ),
    ),
    about="Which of two nouns fills the gap? The rest of the sentence is scored after each (partial evaluation).",
    licence="Apache-2.0",
    citation="Sakaguchi et al. 2020, WinoGrande: An Adversarial Winograd Schema Challenge at Scale, AAAI",
)


def openbookqa(row: Row) -> Doc:
    return lettered_choices(row, row["question_stem"], row["question_stem"])


OPENBOOKQA = Task(
    name="openbookqa",
    rows=hub("allenai/openbookqa", "main", revision="388097ea7776314e93a529163e0fea805b8a6454"),
    doc=openbookqa,
    ask=RANK,
    metrics=NORMED,
    split="test",
    shots=TRAIN,
    protocol="lm-eval",
    worked=(
        Worked(
            {
                "id": "own-1",
                "question_stem": "A magnet will pull",
                "choices": {"text": ["a cork", "an iron nail"], "label": ["A", "B"]},
                "answerKey": "B",
            },
            "A magnet will pull",
            "an iron nail",
        ),
    ),
    about="Elementary science: which of four texts continues the question?",
    licence="Apache-2.0",
    citation="Mihaylov et al. 2018, Can a Suit of Armor Conduct Electricity?, EMNLP",
)

PRIMER = (
    "Q: What is human life expectancy in the United States?\nA: Human life expectancy in the United States is 78 years.\n\n"
    "Q: Who was president of the United States in 1955?\n"
    "A: Dwight D. Eisenhower was president of the United States in 1955.\n\n"
    "Q: Which party did he belong to?\nA: He belonged to the Republican Party.\n\n"
    "Q: What is the square root of banana?\nA: I have no comment.\n\n"
    "Q: How does a telescope work?\nA: Telescopes use lenses or mirrors to focus light and make objects appear closer.\n\n"
    "Q: Where were the 1992 Olympics held?\nA: The 1992 Olympics were held in Barcelona, Spain.\n\n"
)
"""The questions and answers that the paper puts before every question (its prompt "qa")."""


def truthful(row: Row, kind: str) -> Doc:
    choices, labels = row[kind]["choices"], row[kind]["labels"]
    prompt, inputs = f"Q: {row['question']}\nA:", (row["question"],)
    if kind == "mc1_targets":
        return Doc(prompt, choices=tuple(choices), gold=list(labels).index(1), inputs=inputs)
    return Doc(prompt, choices=tuple(choices), targets=tuple(map(float, labels)), inputs=inputs)


def truthfulqa_mc1(row: Row) -> Doc:
    return truthful(row, "mc1_targets")


def truthfulqa_mc2(row: Row) -> Doc:
    return truthful(row, "mc2_targets")


ANSWERS = {"choices": ["They do not see the colour red.", "Red makes them angry."], "labels": [1, 0]}


def truthfulqa_task(number: int) -> Task:
    first = number == 1
    return Task(
        name=f"truthfulqa_mc{number}",
        rows=hub("truthfulqa/truthful_qa", "multiple_choice", revision="741b8276f2d1982aa3d5b832d3ee81ed3b896490"),
        doc=truthfulqa_mc1 if first else truthfulqa_mc2,
        ask=RANK,
        metrics=(accuracy if first else correct_probability,),
        split="validation",
        layout=Layout(instructions=PRIMER),
        protocol="lm-eval",
        worked=(
            Worked(
                {"question": "Can bulls see red?", "mc1_targets": ANSWERS, "mc2_targets": ANSWERS},
                "Q: Can bulls see red?\nA:",
                "They do not see the colour red.",
            ),
        ),
        about="Questions that invite a common misconception: "
        + (
            "is the true answer the likeliest? It is the first of the choices in the data, so equal ones count as right."
            if first
            else "the probability of all true answers among all answers."
        ),
        licence="Apache-2.0",
        citation="Lin et al. 2022, TruthfulQA: Measuring How Models Mimic Human Falsehoods, ACL",
    )


TRUTHFULQA_MC1, TRUTHFULQA_MC2 = truthfulqa_task(1), truthfulqa_task(2)


def lambada(row: Row) -> Doc:
    """The last word with the space before it is scored; `split` keeps line breaks in front of it in the context."""
    *before, last = row["text"].split(" ")
    context = " ".join(before)
    return Doc(context, choices=(f" {last}",), gold=0, inputs=(context,))


LAMBADA = Task(
    name="lambada_openai",
    rows=hub("EleutherAI/lambada_openai", revision="900124bf3b8235c6daf21033af9948b3f07346c4"),
    doc=lambada,
    ask=Loglikelihood(greedy=True),
    metrics=(greedy_accuracy, continuation_perplexity),
    split="test",
    layout=Layout(joint=""),
    protocol="lm-eval",
    worked=(
        Worked(
            {"text": "Anna had lost her cat, and she went out to look for her cat"},
            "Anna had lost her cat, and she went out to look for her",
            " cat",
        ),
    ),
    about="The last word of a passage: would greedy decoding generate it, and how likely is it? (OpenAI's version of the test set.)",
    licence="MIT",
    citation="Paperno et al. 2016, The LAMBADA dataset: Word prediction requiring a broad discourse context, ACL; Radford et al. 2019",
)

CHOICE_TASKS: tuple[Task, ...] = (
    ARC_EASY,
    ARC_CHALLENGE,
    HELLASWAG,
    PIQA,
    WINOGRANDE,
    OPENBOOKQA,
    TRUTHFULQA_MC1,
    TRUTHFULQA_MC2,
    LAMBADA,
)
