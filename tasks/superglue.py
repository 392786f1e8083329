"""SuperGLUE: eight tasks and two diagnostic sets, with the official metrics and the SuperGLUE score.

Protocol "lm-eval": exactly the prompts of lm-eval 0.4.13. Protocol "assay": lm-eval's prompts with three defects fixed
(it inverts MultiRC's gold labels; COPA and ReCoRD have an extra space before the answer), and the diagnostic sets, which it lacks.
Test labels are hidden, so the validation split is scored.
"""

from __future__ import annotations

from functools import partial

from assay import ChoiceScores, Family, Metric, Worked, hub
from assay.harness.metrics.choice import accuracy, exact_set, f1, macro_f1, mcc, pair_parity
from assay.tasks._record import RECORD_EM, RECORD_F1, record
from assay.tasks._superglue_rows import axb, axg, boolq, cb, copa, multirc, rte, wic, wsc
from assay.tasks.glue import average, task_of

REVISION = "3de24cf8022e94f4ee4b9d55a6f539891524d646"
CITATION = "Wang et al. 2019, SuperGLUE: A Stickier Benchmark for General-Purpose Language Understanding Systems, NeurIPS"
data = partial(hub, "aps/super_glue", revision=REVISION)
member = partial(task_of, "superglue", data)


F1A: Metric[ChoiceScores] = Metric("f1a", f1.measure, f1.combine, reads=ChoiceScores, signature=f1.signature)
"""MultiRC: F1 of label 1 over the answers to all questions."""
EM: Metric[ChoiceScores] = Metric("em", exact_set.measure, exact_set.combine, reads=ChoiceScores, signature=exact_set.signature)
"""MultiRC: share of questions whose answers are all classified correctly."""
GENDER_PARITY: Metric[ChoiceScores] = Metric("gender_parity", pair_parity.measure, pair_parity.combine, reads=ChoiceScores)
"""AX-g: share of minimal pairs with equal predictions."""

BOOLQ = member(
    "boolq",
    boolq,
    (accuracy,),
    worked=(
        Worked(
            {"question": "is the lighthouse still in use", "passage": "Its lamp was put out in 1971.", "idx": 0, "label": 0},
            "Its lamp was put out in 1971.\nQuestion: is the lighthouse still in use?\nAnswer:",
            "no",
        ),
        Worked(
            {"question": "was the lamp put out", "passage": "Its lamp was put out in 1971.", "idx": 1, "label": 1},
            "Its lamp was put out in 1971.\nQuestion: was the lamp put out?\nAnswer:",
            "yes",
        ),
    ),
    about="BoolQ: a yes/no question on a passage. Labels 0 no, 1 yes. Official metric: accuracy.",
    licence="CC BY-SA 3.0",
    citation="Clark et al. 2019, BoolQ: Exploring the Surprising Difficulty of Natural Yes/No Questions, NAACL; " + CITATION,
)

CB = member(
    "cb",
    cb,
    (accuracy, macro_f1(3)),
    worked=(
        Worked(
            {"premise": "Ann knows that it rained.", "hypothesis": "it rained", "idx": 0, "label": 0},
            "Ann knows that it rained.\nQuestion: it rained. True, False, or Neither?\nAnswer:",
            "True",
        ),
        Worked(
            {"premise": "Ann doubted it, and rightly: it never rained.", "hypothesis": "it rained", "idx": 1, "label": 1},
            "Ann doubted it, and rightly: it never rained.\nQuestion: it rained. True, False, or Neither?\nAnswer:",
            "False",
        ),
        Worked(
            {"premise": "Ann hopes that it rained.", "hypothesis": "it rained", "idx": 2, "label": 2},
            "Ann hopes that it rained.\nQuestion: it rained. True, False, or Neither?\nAnswer:",
            "Neither",
        ),
    ),
    about="CB: is the speaker committed to the embedded clause? Labels 0 entailment, 1 contradiction, 2 neutral. "
    "Official metrics: accuracy and the mean of three one-vs-rest F1.",
    licence="research use",
    citation="de Marneffe et al. 2019, The CommitmentBank, Sinn und Bedeutung; " + CITATION,
)

COPA = member(
    "copa",
    copa,
    (accuracy,),
    protocol="assay",
    worked=(
        Worked(
            {
                "premise": "The plant died.",
                "choice1": "Nobody watered it.",
                "choice2": "It was a fern.",
                "question": "cause",
                "idx": 0,
                "label": 0,
            },
            "The plant died because",
            "nobody watered it.",
        ),
        Worked(
            {
                "premise": "The glass fell off the shelf.",
                "choice1": "It was empty.",
                "choice2": "It broke.",
                "question": "effect",
                "idx": 1,
                "label": 1,
            },
            "The glass fell off the shelf therefore",
            "it broke.",
        ),
    ),
    about="COPA: which of two alternatives is the cause or effect? Labels 0 choice1, 1 choice2. Official metric: accuracy. "
    "lm-eval's prompt, with one space before the alternative instead of two.",
    licence="BSD 2-Clause",
    citation="Roemmele et al. 2011, Choice of Plausible Alternatives, AAAI Spring Symposium; " + CITATION,
)

MULTIRC = member(
    "multirc",
    multirc,
    (F1A, EM, accuracy),
    protocol="assay",
    worked=(
        Worked(
            {
                "paragraph": "Mia fed the goat and then the hens.",
                "question": "What did Mia feed?",
                "answer": "The goat",
                "idx": {"paragraph": 0, "question": 0, "answer": 0},
                "label": 1,
            },
            "Mia fed the goat and then the hens.\nQuestion: What did Mia feed?\nAnswer: The goat\nIs the answer correct?",
            "yes",
        ),
        Worked(
            {
                "paragraph": "Mia fed the goat and then the hens.",
                "question": "What did Mia feed?",
                "answer": "The cat",
                "idx": {"paragraph": 0, "question": 0, "answer": 1},
                "label": 0,
            },
            "Mia fed the goat and then the hens.\nQuestion: What did Mia feed?\nAnswer: The cat\nIs the answer correct?",
            "no",
        ),
    ),
    about="MultiRC: is this a right answer to a question on a paragraph? Labels 0 no, 1 yes. Official metrics: F1 over all answers (f1a), "
    "exact match by question (em). lm-eval's choices [yes, no] are in the opposite order of the labels, which inverts its gold; "
    "here the answer is in the prompt and the choices are no and yes.",
    licence="research use",
    citation="Khashabi et al. 2018, Looking Beyond the Surface: Reading Comprehension over Multiple Sentences, NAACL; " + CITATION,
)

RECORD = member(
    "record",
    record,
    (RECORD_F1, RECORD_EM),
    protocol="assay",
    worked=(
        Worked(
            {
                "passage": "Lena Roth beat Ivo Klee in the final in Graz.\n@highlight\nRoth won in three sets\n@highlight\nKlee was hurt",
                "query": "It was the third title for @placeholder this year.",
                "entities": ["Lena Roth", "Ivo Klee", "Graz", "Roth", "Klee"],
                "entity_spans": {"text": [], "start": [], "end": []},
                "answers": ["Lena Roth", "Roth"],
                "idx": {"passage": 0, "query": 0},
            },
            "Lena Roth beat Ivo Klee in the final in Graz.\n\n  - Roth won in three sets.\n  - Klee was hurt.\n  -",
            "It was the third title for Lena Roth this year.",
        ),
    ),
    about="ReCoRD: which entity of the passage fills the blank? Official metrics: word F1 and exact match of the entity, best over the "
    "gold answers, SQuAD's normalisation. lm-eval's prompt, without its extra space before the query.",
    licence="research use",
    citation="Zhang et al. 2018, ReCoRD: Bridging the Gap between Human and Machine Commonsense Reading Comprehension; " + CITATION,
)

RTE = member(
    "rte",
    rte,
    (accuracy,),
    worked=(
        Worked(
            {"premise": "Ada sold her red bicycle to Tom.", "hypothesis": "Tom bought a bicycle.", "idx": 0, "label": 0},
            "Ada sold her red bicycle to Tom.\nQuestion: Tom bought a bicycle. True or False?\nAnswer:",
            "True",
        ),
        Worked(
            {"premise": "Ada sold her red bicycle to Tom.", "hypothesis": "Tom bought a car.", "idx": 1, "label": 1},
            "Ada sold her red bicycle to Tom.\nQuestion: Tom bought a car. True or False?\nAnswer:",
            "False",
        ),
    ),
    about="RTE: does the premise entail the hypothesis? Labels 0 entailment, 1 not_entailment. Official metric: accuracy.",
    licence="research use",
    citation="Dagan et al. 2006, Bar Haim et al. 2006, Giampiccolo et al. 2007, Bentivogli et al. 2009 (RTE 1, 2, 3, 5); " + CITATION,
)

WIC = member(
    "wic",
    wic,
    (accuracy,),
    worked=(
        Worked(
            {
                "word": "bank",
                "sentence1": "Two banks merged.",
                "sentence2": "She robbed a bank.",
                "start1": 4,
                "start2": 13,
                "end1": 9,
                "end2": 17,
                "idx": 0,
                "label": 1,
            },
            "Sentence 1: Two banks merged.\nSentence 2: She robbed a bank.\n"
            "Question: Is the word 'banks' used in the same way in the two sentences above?\nAnswer:",
            "yes",
        ),
        Worked(
            {
                "word": "bank",
                "sentence1": "Two banks merged.",
                "sentence2": "They sat on the bank of the canal.",
                "start1": 4,
                "start2": 16,
                "end1": 9,
                "end2": 20,
                "idx": 1,
                "label": 0,
            },
            "Sentence 1: Two banks merged.\nSentence 2: They sat on the bank of the canal.\n"
            "Question: Is the word 'banks' used in the same way in the two sentences above?\nAnswer:",
            "no",
        ),
    ),
    about="WiC: does a word have the same sense in two sentences? Labels 0 no, 1 yes. Official metric: accuracy.",
    licence="CC BY-NC 4.0",
    citation="Pilehvar and Camacho-Collados 2019, WiC: the Word-in-Context Dataset, NAACL; " + CITATION,
)

WSC = member(
    "wsc",
    wsc,
    (accuracy,),
    rows=data("wsc.fixed"),
    worked=(
        Worked(
            {
                "text": "The cook did n't thank the waiter , for he was cross .",
                "span1_index": 0,
                "span2_index": 9,
                "span1_text": "The cook",
                "span2_text": "he",
                "idx": 0,
                "label": 1,
            },
            "Passage: The cook didn't thank the waiter, for *he* was cross.\n"
            'Question: In the passage above, does the pronoun "*he*" refer to "*The cook*"?\nAnswer:',
            "yes",
        ),
        Worked(
            {
                "text": "Meg called Sue because she needed help.",
                "span1_index": 2,
                "span2_index": 4,
                "span1_text": "Sue",
                "span2_text": "she",
                "idx": 1,
                "label": 0,
            },
            "Passage: Meg called Sue because *she* needed help.\n"
            'Question: In the passage above, does the pronoun "*she*" refer to "*Sue*"?\nAnswer:',
            "no",
        ),
    ),
    about="WSC: does the pronoun refer to the noun? Labels 0 no, 1 yes. Official metric: accuracy. "
    "Config wsc.fixed, whose spans are substrings of the text.",
    licence="CC BY 4.0",
    citation="Levesque et al. 2012, The Winograd Schema Challenge, KR; " + CITATION,
)

AXB = member(
    "axb",
    axb,
    (mcc(), accuracy),
    split="test",
    protocol="assay",
    worked=(
        Worked(
            {"sentence1": "Not every door was locked.", "sentence2": "Every door was locked.", "idx": 0, "label": 1},
            "Not every door was locked.\nQuestion: Every door was locked. True or False?\nAnswer:",
            "False",
        ),
        Worked(
            {"sentence1": "Each door was locked.", "sentence2": "Every door was locked.", "idx": 1, "label": 0},
            "Each door was locked.\nQuestion: Every door was locked. True or False?\nAnswer:",
            "True",
        ),
    ),
    about="AX-b, the broad-coverage diagnostic, under RTE's prompt (the paper scores it with the RTE model). Labels 0 entailment, "
    "1 not_entailment. Official metric: Matthews correlation. Not part of the SuperGLUE score.",
    licence="as GLUE",
    citation=CITATION,
)

AXG = member(
    "axg",
    axg,
    (accuracy, GENDER_PARITY),
    split="test",
    protocol="assay",
    worked=(
        Worked(
            {
                "premise": "The pilot rang the nurse to ask when his shift began.",
                "hypothesis": "The nurse had a shift.",
                "idx": 0,
                "label": 1,
            },
            "The pilot rang the nurse to ask when his shift began.\nQuestion: The nurse had a shift. True or False?\nAnswer:",
            "False",
        ),
        Worked(
            {
                "premise": "The pilot rang the nurse to ask when her shift began.",
                "hypothesis": "The nurse had a shift.",
                "idx": 1,
                "label": 1,
            },
            "The pilot rang the nurse to ask when her shift began.\nQuestion: The nurse had a shift. True or False?\nAnswer:",
            "False",
        ),
    ),
    about="AX-g, Winogender pairs that differ only in a pronoun's gender, under RTE's prompt. Labels 0 entailment, 1 not_entailment. "
    "Official metrics: accuracy, and gender parity: the share of pairs with equal predictions. Not part of the SuperGLUE score.",
    licence="CC BY 4.0",
    citation="Rudinger et al. 2018, Gender Bias in Coreference Resolution, NAACL; " + CITATION,
)

TASKS = (BOOLQ, CB, COPA, MULTIRC, RECORD, RTE, WIC, WSC, AXB, AXG)

SUPERGLUE = average(
    "superglue",
    ((BOOLQ, accuracy),),
    ((CB, accuracy), (CB, CB.metrics[1])),
    ((COPA, accuracy),),
    ((MULTIRC, F1A), (MULTIRC, EM)),
    ((RECORD, RECORD_F1), (RECORD, RECORD_EM)),
    ((RTE, accuracy),),
    ((WIC, accuracy),),
    ((WSC, accuracy),),
)

FAMILIES = (
    Family(
        "superglue",
        TASKS,
        (SUPERGLUE,),
        about="Eight harder language understanding tasks. SuperGLUE score: metrics averaged for CB, MultiRC and ReCoRD, then all eight.",
    ),
)
