"""A new task as files: at most 15 lines of Python, its data, and a test. Nothing that exists is overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from assay.harness.errors import AssayError

Kind = Literal["generate", "choose"]

GENERATE = '''"""Does the model know capital cities?"""
from assay import Doc, Generate, Task, exact_match, jsonl

def read(row):
    return Doc(f"Q: What is the capital of {row['country']}?\\nA:", references=(row["capital"],))

TASKS = (
    Task(
        name="NAME",
        rows=jsonl("data/NAME.{split}.jsonl"),
        doc=read,
        ask=Generate(max_tokens=8, stop=("\\n",)),
        metrics=(exact_match,),
    ),
)
'''
CHOOSE = '''"""Does the model know capital cities, among three?"""
from assay import Choose, Doc, Task, accuracy, jsonl

def read(row):
    return Doc(f"Q: What is the capital of {row['country']}?\\nA:", choices=tuple(row["cities"]), gold=row["capital"])

TASKS = (
    Task(
        name="NAME",
        rows=jsonl("data/NAME.{split}.jsonl"),
        doc=read,
        ask=Choose(),
        metrics=(accuracy,),
    ),
)
'''
TEST = '''"""The task holds every check of `assay check`. Run: pytest test_NAME.py"""
from pathlib import Path

from assay.harness.checking import check_file


def test_NAME_is_fit_to_measure_with():
    assert check_file(Path(__file__).with_name("NAME.py")) == ()
'''
CODE: Mapping[Kind, str] = {"generate": GENERATE, "choose": CHOOSE}
CAPITALS = {
    "test": (
        ("Norway", "Oslo", "Bergen", "Trondheim"),
        ("Japan", "Kyoto", "Tokyo", "Osaka"),
        ("Kenya", "Mombasa", "Kisumu", "Nairobi"),
        ("Peru", "Lima", "Cusco", "Arequipa"),
        ("Canada", "Toronto", "Ottawa", "Vancouver"),
        ("Portugal", "Porto", "Braga", "Lisbon"),
    ),
    "train": (
        ("Greece", "Athens", "Patras", "Larissa"),
        ("Egypt", "Alexandria", "Cairo", "Luxor"),
        ("Cuba", "Trinidad", "Holguin", "Havana"),
    ),
}
RIGHT = {"test": (0, 1, 2, 0, 1, 2), "train": (0, 1, 2)}


@dataclass(frozen=True, slots=True)
class Draft:
    """The files of a new task, not yet written: text by path."""

    files: Mapping[Path, str]

    def write(self) -> tuple[Path, ...]:
        """Writes all of them, or none. Raises AssayError where one exists or cannot be written."""
        for path in self.files:
            if path.exists():
                raise AssayError("exists already", where=str(path), do="choose another name; nothing was written")
        written: list[Path] = []
        try:
            for path, text in self.files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("x", encoding="utf-8") as file:
                    written.append(path)
                    file.write(text)
        except OSError as error:
            for path in written:
                path.unlink(missing_ok=True)
            raise AssayError(f"cannot be written: {error.strerror}", where=str(path), do="choose another --folder") from None
        return tuple(written)


def draft(name: str, kind: Kind, folder: Path) -> Draft:
    """The task NAME.py, its data in data/, and test_NAME.py. Raises AssayError for a name that Python cannot import."""
    if not (name.isidentifier() and name.isascii() and name == name.lower()):
        raise AssayError(f"{name!r} is no name for a task file", do="use small letters, digits and underscores, such as my_task")
    data = {folder / "data" / f"{name}.{split}.jsonl": rows(split, kind) for split in CAPITALS}
    code = {folder / f"{name}.py": CODE[kind].replace("NAME", name), folder / f"test_{name}.py": TEST.replace("NAME", name)}
    return Draft({**code, **data})


def rows(split: str, kind: Kind) -> str:
    """Rows of our own as JSON lines."""
    lines = []
    for (country, *cities), right in zip(CAPITALS[split], RIGHT[split], strict=True):
        listed = ", ".join(f'"{city}"' for city in cities)
        answer = f'"capital": "{cities[right]}"' if kind == "generate" else f'"cities": [{listed}], "capital": {right}'
        lines.append(f'{{"country": "{country}", {answer}}}\n')
    return "".join(lines)
