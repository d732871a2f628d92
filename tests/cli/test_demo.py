"""The demo runs the commands that it prints, and all results that it lists exist afterwards."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cifm_cli.commands import demo

pytestmark = pytest.mark.figures


def test_the_demo_consists_of_six_commands() -> None:
    assert [line.split()[1] for line in demo.COMMANDS] == ["prepare", "train", "evaluate", "embed", "probe", "simulate"]


@pytest.mark.slow
def test_the_demo_runs_the_commands_that_it_prints(cifm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "NUM_CELLS", 900)
    brief = {
        "train": "--set train.steps=4 --set objective.linear_rank=0",
        "evaluate": "--geometry scattered --rounds 1 --adapt none",
        "simulate": "--steps 1 --max-cells 300",
    }
    monkeypatch.setattr(
        demo, "COMMANDS", tuple(f"{line} {brief.get(line.split()[1], '')}".strip() for line in demo.COMMANDS)
    )
    code, out, err = cifm("demo")
    assert (code, out) == (0, "")
    assert re.findall(r"^\$ (.*)$", err, re.MULTILINE) == ["cd cifm_demo", *demo.COMMANDS]
    assert [path for path in demo.RESULTS if not (tmp_path / "cifm_demo" / path).exists()] == []
    assert Path.cwd() == tmp_path
    monkeypatch.chdir(tmp_path / "cifm_demo")
    for line in next_commands():
        code, _, err = cifm(*shlex.split(f"{line} {brief.get(line.split()[1], '')}")[1:])
        assert code == 0, f"{line}: {err}"


def next_commands() -> list[str]:
    """The commands that the tutorial proposes after the demo."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "tutorial.md").read_text(encoding="utf8")
    lines = re.findall(r"^cifm .*$", page.partition("Go on in this folder")[2], re.MULTILINE)
    assert len(lines) >= 3
    return lines


def test_a_command_that_fails_ends_the_demo(cifm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "NUM_CELLS", 300)
    monkeypatch.setattr(demo, "COMMANDS", ("cifm inspect nowhere", "cifm recipes list"))
    code, out, err = cifm("demo", "--out", "d")
    assert (code, out) == (1, "")
    assert "nowhere" in err
    assert "recipes" not in err
