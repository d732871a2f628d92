"""Training called from Python: recipes as objects, paths or names, a result, and no output."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifm_cli import recipe as recipes
from cifm_cli.errors import CifmError
from cifm_cli.model.checkpoint import load_checkpoint
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.launch import launch

SETTINGS = ["train.steps=2", "train.validation_tiles=1", "model.width=8", "data.tile_cells=64"]
SETTINGS += ["objective.linear_rank=0"]  # its fit takes longer than the steps


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(recipes.to_toml(recipes.load(recipes.find("demo"), SETTINGS)))
    return file


@pytest.mark.parametrize("devices", [None, 2])
def test_training_prints_nothing_and_returns_the_run(
    prepared_few_genes: Path,
    recipe_file: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    devices: int | None,
) -> None:
    recipe = recipes.load(recipe_file, [f"train.tiles_per_step={devices or 1}"])
    config = TrainConfig(recipe, [prepared_few_genes], tmp_path / "run", backend="torch", devices=devices)
    result = launch(config)
    assert (result.folder, result.steps) == (tmp_path / "run", 2)
    assert load_checkpoint(result.folder).recipe == recipe
    assert result.to_json()["run"] == str(tmp_path / "run")
    assert capfd.readouterr() == ("", "")


def test_a_recipe_is_an_object_a_path_or_a_name(recipe_file: Path, tmp_path: Path) -> None:
    recipe = recipes.load(recipe_file)
    for given in (recipe, recipe_file, str(recipe_file)):
        assert TrainConfig(given, [], tmp_path).load_recipe() == recipe
    assert TrainConfig("demo", [], tmp_path).load_recipe() == recipes.load(recipes.find("demo"))
    with pytest.raises(CifmError, match="no such file"):
        TrainConfig("demmo", [], tmp_path).load_recipe()


def test_a_network_that_is_larger_than_the_memory_is_an_error(prepared_few_genes: Path, tmp_path: Path) -> None:
    recipe = recipes.load(recipes.find("demo"), ["model.width=65536"])
    with pytest.raises(CifmError, match=r"training it needs at least [\d,]+ GiB; this machine has") as caught:
        launch(TrainConfig(recipe, [prepared_few_genes], tmp_path / "run", backend="torch"))
    assert "model.width" in caught.value.hint
