"""Damage to texts that users and commands write: recipes, sample sheets, locations, marker genes, metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from checkpoint_mutations import RESUME
from forgeries import may_differ
from intact import COMMANDS, RUN, SLIDE
from outcomes import Mutation

_TRAIN = [*COMMANDS["train"]]
_WORDS = ["", "nan", "inf", "-1", "0", "1e999", "9" * 5_000, "0x" + "f" * 5_000, '"', "'", "[", "{", "=", "\x1b[31m", "\ufeff", "é",
          "a" * 200_000, "../..", "true", "1,5", "1979-05-27", ";", "\t", ",", "\n", "\r", "x." * 2_000 + "x = 1"]  # fmt: skip
_ENCODINGS = ["utf-16", "utf-16-le", "latin-1", "utf-8-sig", "utf-32", "cp037"]


def damage_text(generator: np.random.Generator, text: str) -> tuple[bytes, str]:
    """Bytes of a text with one kind of damage."""
    way = str(generator.choice(["word", "bits", "cut", "line", "encoding", "zeros", "repeat", "binary", "nested"]))
    content = text.encode()
    place = int(generator.integers(len(text)))
    if way == "word":
        word = _WORDS[int(generator.integers(len(_WORDS)))]
        end = min(len(text), place + int(generator.integers(12)))
        return (text[:place] + word + text[end:]).encode(), f"word {word[:20]!r} at {place}"
    if way == "bits":
        changed = bytearray(content)
        for _ in range(int(generator.choice([1, 5]))):
            changed[int(generator.integers(len(changed)))] ^= 1 << int(generator.integers(8))
        return bytes(changed), "bits flipped"
    if way == "line":
        lines = text.splitlines(keepends=True)
        number = int(generator.integers(len(lines)))
        lines[number] *= int(generator.choice([0, 2]))
        return "".join(lines).encode(), f"line {number} left out or repeated"
    encoding = str(generator.choice(_ENCODINGS))
    made = {
        "cut": content[:place],
        "encoding": (text + "# é").encode(encoding, "replace"),
        "zeros": content[:place] + b"\0" * 5 + content[place:],
        "repeat": content * 300,
        "binary": generator.bytes(2_000),
        "nested": content[:place] + b"[" * int(generator.choice([500, 3_000])) + content[place:],
    }[way]
    return made, f"{way} {encoding if way == 'encoding' else place}"


def on_a_text(name: str, commands: list[list[str]]) -> Mutation:
    """A mutation that damages a text of the workspace, and runs a command that reads it."""

    def mutate(generator: np.random.Generator, _intact: Path, target: Path) -> tuple[list[str], str]:
        path = target / name
        content, done = damage_text(generator, path.read_text(encoding="utf8"))
        path.write_bytes(content)
        return [*commands[int(generator.integers(len(commands)))]], f"{name}: {done}"

    return may_differ(mutate)


def train_with(recipe: str) -> list[str]:
    """The command that trains a recipe for two steps."""
    return [_TRAIN[0], recipe, *_TRAIN[2:]]


_APPLY_MARKERS = ["annotate", "apply", str(SLIDE), "--annotator", "markers:own.tsv", "--out", "out"]
MUTATIONS: dict[str, Mutation] = {
    "recipe": on_a_text(
        "own.toml", [["recipes", "check", "own.toml"], ["recipes", "show", "own.toml"], train_with("own.toml")]
    ),
    "recipe of a run": on_a_text(f"{RUN}/recipe.toml", [RESUME, ["inspect", str(RUN)]]),
    "metrics": on_a_text(f"{RUN}/metrics.jsonl", [RESUME]),
    "sheet": on_a_text("sheet.csv", [["prepare", "--sheet", "sheet.csv", "--out", "out"]]),
    "locations": on_a_text("at.csv", [[*COMMANDS["predict"], "--at", "at.csv"]]),
    "markers": on_a_text("own.tsv", [_APPLY_MARKERS]),
}
