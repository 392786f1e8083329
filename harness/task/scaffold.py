"""Create the files of a new task: at most 15 lines of Python, its data, and a test. Existing files are not overwritten."""

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
TEST = '''"""The task passes every check of `assay check`. Run: pytest test_NAME.py"""
from pathlib import Path

from assay.harness.checking import check_file


def test_NAME_is_valid():
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
GOLD = {"test": (0, 1, 2, 0, 1, 2), "train": (0, 1, 2)}


@dataclass(frozen=True, slots=True)
class Draft:
    """The files of a new task before they are written: text by path."""

    files: Mapping[Path, str]

    def write(self) -> tuple[Path, ...]:
        """Write all files, or none. Raises AssayError if one exists or cannot be written."""
        for path in self.files:
            if path.exists():
                raise AssayError("already exists; no file was written", where=str(path), do="choose another name")
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
    """Return NAME.py, its data in data/, and test_NAME.py. Raises AssayError for a name that Python cannot import."""
    if not (name.isidentifier() and name.isascii() and name == name.lower()):
        raise AssayError(
            f"{name!r} is not a valid name for a task file", do="use lowercase letters, digits and underscores, such as my_task"
        )
    data = {folder / "data" / f"{name}.{split}.jsonl": rows(split, kind) for split in CAPITALS}
    code = {folder / f"{name}.py": CODE[kind].replace("NAME", name), folder / f"test_{name}.py": TEST.replace("NAME", name)}
    return Draft({**code, **data})


def rows(split: str, kind: Kind) -> str:
    """Return the example rows of a split as JSON lines."""
    lines = []
    for (country, *cities), gold in zip(CAPITALS[split], GOLD[split], strict=True):
        listed = ", ".join(f'"{city}"' for city in cities)
        answer = f'"capital": "{cities[gold]}"' if kind == "generate" else f'"cities": [{listed}], "capital": {gold}'
        lines.append(f'{{"country": "{country}", {answer}}}\n')
    return "".join(lines)
