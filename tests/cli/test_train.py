"""`cifm train` on the command line: the files it writes, and its error messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
from builders import forget_checksums

SMALL = (
    "--set=train.steps=3",
    "--set=train.validate_every=2",
    "--set=train.validation_tiles=1",
    "--set=model.width=8",
    "--set=data.tile_cells=64",
    "--backend=torch",
)


@pytest.fixture(scope="module")
def first_run(prepared_synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose weights other runs start from."""
    from cifm_cli.app import main

    folder = tmp_path_factory.mktemp("given")
    with chdir(folder):  # the command writes runs/latest to the current folder
        assert main(["train", "demo", *SMALL, "--data", str(prepared_synthetic), "--out", "run"]) == 0
    return folder / "run"


def test_train_writes_a_complete_run(cifm: Callable, workspace: Path) -> None:
    outcome = cifm("train", "demo", *SMALL, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    run = Path(result["run"])
    assert sorted(path.name for path in run.iterdir()) == [
        "README.md",
        "learning_curve.png",
        "learning_curve.svg",
        "metrics.jsonl",
        "model.safetensors",
        "recipe.toml",
        "train_state-00000002.safetensors",
        "train_state-00000003.safetensors",
    ]
    assert (workspace / "runs" / "latest").resolve() == run.resolve()
    assert "3 of 3 steps in 0." in outcome.err
    assert "all steps are done." in outcome.err
    shown = json.loads(cifm("inspect", run, "--json").out)["training"]
    assert (shown["steps"], shown["of"], shown["best_loss"]) == (3, 3, result["best_loss"])
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 2, 3, 3]
    assert result["steps"] == 3


def test_resume_continues_the_latest_run(cifm: Callable, workspace: Path) -> None:
    assert cifm("train", "demo", *SMALL).code == 0
    outcome = cifm("train", "demo", *SMALL, "--set=train.steps=5", "--resume", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["steps"] == 5


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["no_such"], "recipe no_such: no such file", "shipped recipes"),
        (["demmo"], "recipe demmo: no such file", "did you mean demo?"),
        (["demo", "--set", "train.step=3"], "unknown key train.step", "did you mean train.steps?"),
        (["demo", "--set", "train.steps=-3"], "train.steps = -3", "cifm recipes show"),
        (["demo", "--set", "nonsense"], "not section.key=value", "train.max_minutes=15"),
        (["demo", "--data", "nowhere"], "nowhere: no such file or folder", "cifm prepare"),
        (["demo", "--init", "nowhere"], "no model in nowhere", "cifm train RECIPE"),
        (["demo", "--resume", "--out", "empty"], "empty: no training to resume", "without --resume"),
        (["demo", "--backend", "warp"], "unknown backend warp", "cifm backends"),
        (["demo", "--devices", "3"], "can't be shared out evenly over 3 processes", "--set train.tiles_per_step=3"),
        (["demo", "--nodes", "2"], "--nodes 2: this is one process on one machine", "srun cifm train"),
        (["demo", "--device", "warp"], "--device warp", "--device auto"),
    ],
)
def test_user_errors_are_one_line_and_a_hint(
    cifm: Callable, workspace: Path, words: list[str], message: str, hint: str
) -> None:
    outcome = cifm("train", *words)
    assert outcome.code == 1
    lines = outcome.err.strip().splitlines()
    assert lines[-2].startswith("error: ")
    assert message in lines[-2]
    assert lines[-1].startswith("hint: ")
    assert hint in lines[-1]
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("objective.scales=[1.0]", "objective.scales = [0.5, 1.0, 2.0, 4.0], here [1.0]"),
        ("objective.name=balanced_mse", 'objective.name = "residual", here "balanced_mse"'),
        ("model.width=16", "model.width = 8, here 16"),
        ("data.target_sum=100", "data.target_sum = 10000.0, here 100.0"),
    ],
)
def test_init_with_another_network_is_an_error(
    cifm: Callable, workspace: Path, first_run: Path, setting: str, message: str
) -> None:
    outcome = cifm("train", "demo", *SMALL, "--init", first_run, "--set", setting, "--out", "refused")
    assert outcome.code == 1
    error, hint = outcome.err.strip().splitlines()[-2:]
    assert error.startswith(f"error: --init {first_run}: trained with another network: ")
    assert message in error
    assert hint == f"hint: start from its recipe: cifm train {first_run}/recipe.toml --init {first_run}"
    assert not Path("refused").exists()


def test_init_may_have_another_dropout(cifm: Callable, workspace: Path, first_run: Path) -> None:
    outcome = cifm("train", "demo", *SMALL, "--init", first_run, "--set", "model.dropout=0.4", "--json")
    assert outcome.code == 0, outcome.err


def test_all_mistakes_of_a_recipe_are_reported_at_once(cifm: Callable, workspace: Path) -> None:
    bad = workspace / "bad.toml"
    bad.write_text("[model]\nwidht = 3\nheads = 0\n[train]\nsteps = 'many'\n")
    outcome = cifm("train", str(bad))
    assert outcome.code == 1
    assert "3 mistakes" in outcome.err
    for words in ("unknown key model.widht (nearest: model.width)", "model.heads", "train.steps"):
        assert words in outcome.err


def test_a_dry_run_prints_the_plan_and_writes_nothing(cifm: Callable, workspace: Path) -> None:
    before = sorted(workspace.rglob("*"))
    outcome = cifm("train", "demo", *SMALL, "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    plan = json.loads(outcome.out)
    described = json.loads(cifm("inspect", "prepared/tissue.h5ad", "--json").out)
    assert plan["train_cells"] == {"tissue": described["split"]["train"]}
    assert plan["validation_cells"] == {"tissue": described["split"]["validation"]}
    assert (plan["genes"], plan["ends_after"]["steps"], plan["cells_per_tile"]) == (described["genes"], 3, 64)
    limited = json.loads(cifm("train", "demo", *SMALL, "--max-minutes", "0.5", "--dry-run", "--json").out)
    assert limited["ends_after"]["minutes"] == 0.5
    assert "nothing was trained or written" in cifm("train", "demo", *SMALL, "--dry-run").err
    assert cifm("train", "demo", *SMALL, "--set=train.steps=0", "--dry-run").code == 1
    assert sorted(workspace.rglob("*")) == before
    trained = cifm("train", "demo", *SMALL, "--json")
    assert json.loads(trained.out)["parameters"] == plan["parameters"]


def test_slides_of_two_species_are_refused(cifm: Callable, workspace: Path, tmp_path: Path) -> None:
    import anndata as ad

    slide = ad.read_h5ad("prepared/tissue.h5ad")
    slide.var_names = [f"ENSMUSG{number:011d}" for number in range(slide.n_vars)]
    forget_checksums(slide).write_h5ad(tmp_path / "mouse.h5ad")
    code, out, err = cifm("train", "demo", *SMALL, "--data", "prepared/tissue.h5ad", "--data", tmp_path / "mouse.h5ad")
    assert (code, out) == (1, "")
    assert "error: slides tissue (ENSG) and mouse (ENSMUSG): genes of different species" in err
    assert "--orthologs" in err


def test_a_model_that_is_still_trained_is_used_with_a_warning(cifm: Callable, workspace: Path, first_run: Path) -> None:
    from cifm_cli.storage.lock import SUFFIX, holding_lock

    with holding_lock(first_run / SUFFIX, first_run, "training", hint="wait"):
        outcome = cifm("embed", "--model", first_run, "--adapt", "none", "--backend", "torch")
    assert outcome.code == 0, outcome.err
    assert f"warning: {first_run}: still training" in outcome.err
    outcome = cifm("embed", "--model", first_run, "--adapt", "none", "--backend", "torch")
    assert "still training" not in outcome.err
