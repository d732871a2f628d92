"""Why a training ended, and its learning curve."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifm_cli.recipe_sections import TrainRecipe
from cifm_cli.training.learning_curve import (
    CURVE_FILES,
    describe_end,
    describe_progress,
    read_curve,
    write_learning_curve,
)
from cifm_cli.training.state import TrainState

pytestmark = pytest.mark.figures

RECIPE = TrainRecipe(steps=7_000, max_minutes=2, patience=3)
RUN = Path("runs/a")


def state(step: int, best_step: int, since_best: int = 0) -> TrainState:
    return TrainState(step=step, seconds=121.0, best_step=best_step, validations_since_best=since_best)


def test_why_a_training_ended() -> None:
    assert describe_end(RECIPE, state(7_000, 6_000), RUN) == "7,000 of 7,000 steps in 2.0 minutes: all steps are done."
    assert "stopped as the last 3 validations brought no better model" in describe_end(RECIPE, state(900, 300, 3), RUN)
    early = describe_end(RECIPE, state(110, 110), RUN)
    assert early.startswith("110 of 7,000 steps in 2.0 minutes: stopped by train.max_minutes = 2")
    assert early.endswith("cifm train runs/a/recipe.toml --resume --out runs/a --set train.max_minutes=20")
    assert "kept model is that of step 100: later validations were no better" in describe_end(
        RECIPE, state(110, 100, 1), RUN
    )

    unlearned = "training improved nothing: the kept model is its start"
    for recipe, ended in ((RECIPE, state(110, 0, 1)), (RECIPE, state(7_000, 0, 2)), (RECIPE, state(900, 0, 3))):
        assert unlearned in describe_end(recipe, ended, RUN)
    assert "A longer training may do better: cifm train" in describe_end(RECIPE, state(110, 0, 1), RUN)
    assert unlearned not in early


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A validation before the first step, two steps, a damaged line, a loss that is no number, a validation."""
    lines = [
        '{"step": 0, "validation_loss": 4.0}', '{"step": 1, "loss": 3.5, "seconds": 1}', '{"step": 2, "loss": 3.0}',
        '{"step": 3, "lo', '{"step": 3, "loss": NaN}', '{"step": 3, "validation_loss": 2.0}', "[1]",
    ]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines), encoding="utf8")
    return tmp_path


def test_the_losses_of_a_run(run: Path) -> None:
    assert read_curve(run / "metrics.jsonl") == {"steps": [(1, 3.5), (2, 3.0)], "validations": [(0, 4.0), (3, 2.0)]}
    assert describe_progress(run) == {
        "training": {
            "steps": 2, "of": None, "first_loss": 4.0, "best_loss": 2.0, "best_step": 3, "last_loss": 2.0, "curve": [],
        }
    }  # fmt: skip


def test_the_figures(run: Path, tmp_path: Path) -> None:
    write_learning_curve(run)
    png, svg = ((run / name).read_bytes() for name in CURVE_FILES)
    assert png.startswith(b"\x89PNG")
    assert b"<svg" in svg
    assert describe_progress(run)["training"]["curve"] == list(CURVE_FILES)
    empty = tmp_path / "empty"
    empty.mkdir()
    write_learning_curve(empty)
    assert list(empty.iterdir()) == []
    assert describe_progress(empty) == {}
