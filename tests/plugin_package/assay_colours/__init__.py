"""Example task package: colours of objects, and words spelled backwards."""

from pathlib import Path

from assay import Choose, Doc, Family, Generate, Shots, Task, Worked, accuracy, exact_match, jsonl

ROWS = jsonl("data/colours.{split}.jsonl").at(Path(__file__).parent)
COLOURS = ("red", "green", "blue", "white")


def choose(row):
    return Doc(f"Q: What colour is {row['thing']}?\nA:", choices=COLOURS, gold=COLOURS.index(row["colour"]))


def reverse(row):
    return Doc(f"Write this backwards: {row['thing']}\nBackwards:", references=(row["thing"][::-1],))


SHADES = Task(
    name="colours/shades",
    rows=ROWS,
    doc=choose,
    ask=Choose(),
    metrics=(accuracy,),
    shots=Shots(2),
    worked=(Worked({"thing": "a cherry", "colour": "red"}, "Q: What colour is a cherry?\nA:", "red"),),
    about="Which of four colours does an object have?",
    licence="Apache-2.0",
)
BACKWARDS = Task("colours/backwards", ROWS, reverse, Generate(max_tokens=16, stop=("\n",)), (exact_match,), licence="Apache-2.0")
FAMILIES = (Family("colours", (SHADES, BACKWARDS), about="Colours of objects, and words spelled backwards."),)
