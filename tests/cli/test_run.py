"""`cifm run`: the commands that it prints and runs, and what it leaves out when it is started again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import train_short_run

from cifm_cli import recipe as recipes
from cifm_cli.commands import run as run_command
from cifm_cli.pipeline.finished_steps import has_started, is_evaluated, is_trained
from cifm_cli.provenance import hash_file

pytestmark = pytest.mark.usefixtures("few_baselines")
SMALL = """\
description = "small"
[data]
radius_um = 20.0
tile_cells = 64
[model]
width = 8
encoder_layers = 1
decoder_layers = 1
heads = 2
[objective]
linear_rank = 0
[train]
steps = 3
validation_tiles = 1
[evaluate]
geometries = ["scattered"]
rounds = 1
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small recipe in a new working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    return Path("small.toml")


def printed(err: str) -> list[str]:
    return re.findall(r"^\$ (.*)$", err, re.MULTILINE)


@pytest.mark.slow
def test_all_steps_then_nothing_then_what_is_missing(cifm: Callable, recipe: Path, xenium_download: Path) -> None:
    words = ("run", recipe, xenium_download, "-o", "out", "--seed", "1", "--max-minutes", "5", "--tissue", "pancreas")
    code, out, err = cifm(*words)
    assert (code, out) == (0, ""), err
    folder, *lines = printed(err)
    assert folder == "cd out"
    assert [line.split()[1] for line in lines] == ["prepare", "train", "evaluate", "embed"]
    assert "train ../small.toml" in lines[1]
    assert "--set train.max_minutes=5" in lines[1]
    assert not any(option in err for option in ("--resume", "--force"))
    assert [path for path in run_command.RESULTS if not Path("out", path).exists()] == []
    digest = hash_file(Path("out/runs/small/model.safetensors"))
    assert "was not evaluated since" not in Path("out/runs/small/README.md").read_text(encoding="utf8")

    again = cifm(*words)
    assert again.code == 0
    assert [line.split()[1] for line in printed(again.err)] == ["out", "prepare"]
    assert again.err.count("is up to date") == 3
    assert "runs/small is trained" in again.err

    Path("out/evaluation/report.html").unlink()
    third = cifm(*words)
    assert [line.split()[1] for line in printed(third.err)] == ["out", "prepare", "evaluate"]
    assert hash_file(Path("out/runs/small/model.safetensors")) == digest
    assert printed(third.err)[1].endswith("--tissue pancreas")

    # The recipe evaluates one round: more are evaluated, fewer are not.
    more = cifm(*words, "--rounds", "2")
    assert printed(more.err)[2].endswith("--rounds 2")
    assert [line.split()[1] for line in printed(cifm(*words).err)] == ["out", "prepare"]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, recipe: Path, prepared_synthetic: Path) -> list[list[str]]:
    """The commands that `cifm run` would run, in a folder `out` with a prepared slide; none is run."""
    Path("download").mkdir()
    Path("out").mkdir()
    Path("out/prepared").symlink_to(prepared_synthetic.parent, target_is_directory=True)
    recorded: list[list[str]] = []
    monkeypatch.setattr(run_command, "run_printed", lambda _context, words: recorded.append(list(words)))
    monkeypatch.setattr(run_command, "_evaluate_and_embed", lambda *_: None)
    return recorded


def test_a_stopped_training_is_continued(cifm: Callable, commands: list[list[str]]) -> None:
    assert cifm("run", "small.toml", "download", "-o", "out").code == 0
    assert commands[0] == ["prepare", "../download"]
    assert "--resume" not in commands[1]
    Path("out/runs/small").mkdir(parents=True)
    Path("out/runs/small/train_state-00000001.safetensors").touch()
    assert cifm("run", "small.toml", "download", "-o", "out").code == 0
    assert commands[3][-1] == "--resume"


def test_a_shipped_recipe_keeps_its_name(cifm: Callable, commands: list[list[str]]) -> None:
    assert cifm("run", "recipes/xenium.toml", "download", "-o", "out").code == 0
    assert commands[1][:6] == ["train", "recipes/xenium.toml", "--data", "prepared", "--out", str(Path("runs/xenium"))]


def test_mistakes_are_found_before_the_preparation(
    fail: Callable[..., str], recipe: Path, xenium_download: Path
) -> None:
    recipe.write_text(SMALL.replace("steps = 3", "stepz = 3"))
    assert "stepz" in fail("run", recipe, xenium_download)
    assert "recipe nowhere" in fail("run", "nowhere", xenium_download)
    assert [path.name for path in Path().iterdir()] == ["small.toml"]


def test_a_download_that_does_not_exist_ends_the_run(fail: Callable[..., str], recipe: Path) -> None:
    assert "nowhere: no such file or folder" in fail("run", recipe, "nowhere")
    assert not Path("cifm_run").exists()


def test_when_a_run_is_trained(tmp_path: Path, prepared_synthetic: Path) -> None:
    run, slides = tmp_path / "run", [prepared_synthetic]
    assert not has_started(run)
    train_short_run(prepared_synthetic, run, seed=3)
    recipe = recipes.load(run / "recipe.toml")
    assert has_started(run)
    assert is_trained(run, recipe, slides, 3)
    assert not is_trained(run, recipe, slides, 0)
    assert not is_trained(run, recipe, [*slides, run / "recipe.toml"], 3)
    assert not is_trained(run, recipes.load(run / "recipe.toml", ["train.steps=4"]), slides, 3)
    assert not is_trained(run, recipes.load(run / "recipe.toml", ["model.width=16"]), slides, 3)
    assert not is_evaluated(tmp_path, run, slides, 3)
    (run / "model.safetensors").write_bytes(b"damaged")
    assert not is_trained(run, recipe, slides, 3)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"provenance": {"inputs": 1}}', '{"provenance": null}'])
def test_a_damaged_evaluation_is_not_up_to_date(tmp_path: Path, content: str) -> None:
    (tmp_path / "metrics.json").write_text(content)
    assert not is_evaluated(tmp_path, tmp_path, [], 0)
