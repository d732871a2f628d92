"""`cifm recipes`: list, show, copy, check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cifm_cli import recipe


def test_list_names_every_shipped_recipe(cifm) -> None:
    code, out, err = cifm("recipes", "list")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == list(recipe.shipped())
    assert list(json.loads(cifm("recipes", "list", "--json").out)) == list(recipe.shipped())


def test_show_prints_the_file_unchanged(cifm) -> None:
    assert cifm("recipes", "show", "xenium") == (0, recipe.find("xenium").read_text(encoding="utf8"), "")


def test_copy_edit_check(cifm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cifm("recipes", "copy", "visium").code == 0
    copied = tmp_path / "visium.toml"
    assert copied.read_bytes() == recipe.find("recipes/visium.toml").read_bytes() or recipe.find("visium").samefile(
        copied
    )
    copied.write_text("train.steps = 7\n")
    assert cifm("recipes", "copy", "visium").code == 1
    assert copied.read_text() == "train.steps = 7\n"
    resolved = json.loads(cifm("recipes", "check", "visium.toml", "--json").out)
    assert resolved["train"]["steps"] == 7
    assert cifm("recipes", "copy", "visium", "--force").code == 0
    assert copied.read_text() != "train.steps = 7\n"


def test_copy_into_a_folder(cifm, tmp_path: Path) -> None:
    assert cifm("recipes", "copy", "xenium", tmp_path).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["xenium.toml"]


def test_check_shows_every_mistake_and_the_nearest_key(cifm, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[model]\nheds = 64\nheads = 0\n[tarin]\nsteps = 3\n")
    code, out, err = cifm("recipes", "check", path, "--set", "mask.share=1.5")
    assert (code, out) == (1, "")
    for expected in (
        "4 mistakes",
        "model.heds (nearest: model.heads)",
        "model.heads = 0",
        "tarin",
        "mask.share = 1.5",
    ):
        assert expected in err
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "hint"), [("xenum", "did you mean xenium?"), ("nothing_like_it", "shipped recipes: demo, ")]
)
def test_the_hint_names_a_similar_recipe(cifm, name: str, hint: str) -> None:
    code, _, err = cifm("recipes", "show", name)
    assert code == 1
    assert f"hint: {hint}" in err
