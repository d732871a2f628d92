"""The model card of a run: what train and evaluate write into it, and what they leave alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from builders import train_short_run

from cifm_cli.model_card.card import escape_markdown, render_card, update_card, update_cards, write_card
from cifm_cli.model_card.evaluation_facts import COLUMNS
from cifm_cli.model_card.training_facts import TrainingFacts, TrainingSlideFacts

pytestmark = pytest.mark.usefixtures("few_baselines")
SMALL = (
    "--set=train.steps=3", "--set=train.validation_tiles=1", "--set=model.width=8", "--set=data.tile_cells=64",
    "--set=objective.linear_rank=0", "--backend=torch",
)  # fmt: skip
FACTS = TrainingFacts(
    name="tonsil",
    version="0.1.0",
    description="small",
    recipe="[data]\nradius_um = 20.0\n",
    slides=(TrainingSlideFacts("a", "xenium", "tonsil", 1200, 300),),
    platforms=("xenium",),
    num_genes=300,
    num_parameters=4321,
    seed=0,
    init=None,
)


@pytest.fixture
def run(workspace: Path) -> Path:
    """A short run on the slide of the workspace."""
    train_short_run(Path("prepared/tissue.h5ad"), Path("runs/one"), latest=Path("runs/latest"))
    return Path("runs/one")


def front_matter(text: str) -> dict[str, object]:
    """The YAML at the top of a card."""
    assert text.startswith("---\n")
    content: dict[str, object] = yaml.safe_load(text.split("---\n")[1])
    return content


def test_train_writes_the_card(cifm: Callable, workspace: Path) -> None:
    code, out, err = cifm("train", "demo", *SMALL, "--json")
    assert code == 0, err
    run = Path(json.loads(out)["run"])
    card = (run / "README.md").read_text(encoding="utf8")
    assert front_matter(card)["library_name"] == "cifm"
    assert "xenium" in front_matter(card)["tags"]
    assert "license" not in front_matter(card)
    row = next(line for line in card.splitlines() if line.startswith("| tissue |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    with_split = json.loads(cifm("inspect", "prepared/tissue.h5ad", "--json").out)
    assert cells == ["tissue", "xenium", "-", f"{with_split['split']['train']:,}", f"{with_split['genes']:,}"]
    assert "This model was not evaluated since it was trained." in card
    assert (run / "recipe.toml").read_text(encoding="utf8").strip() in card


def test_evaluate_writes_its_result_and_training_again_removes_it(cifm: Callable, run: Path) -> None:
    write_card(run)
    words = ("evaluate", "--geometry", "scattered", "--rounds", "1", "--adapt", "none", "--backend", "torch")
    code, _, err = cifm(*words)
    assert code == 0, err
    assert "model card" in err
    card, metrics = (
        (run / "README.md").read_text(encoding="utf8"),
        json.loads(Path("evaluation/metrics.json").read_text()),
    )
    assert escape_markdown(metrics["verdict"]["sentence"]) in card
    found = metrics["slides"]["tissue"]["geometries"]["scattered"]
    forms = found["predictors"]["model"]
    assert f"| scattered, {found['num_cells']:,} |" in card
    assert "scored as trained, without fitting it to a slide\n(`--adapt none`)." in card
    assert f"{found['num_cells']:,} hidden cells (of " in err  # one of 20 rounds hides some cells only
    assert f"| {min(form['mse'] for form in forms.values()):.3f} |" in card
    assert metrics["verdict"]["models"]["model"]["scattered"]["best_baseline"].replace("_", r"\_") in card
    write_card(run)
    assert "not evaluated since it was trained" in (run / "README.md").read_text(encoding="utf8")


def evaluation_of(num_cells: dict[str, int], sentence: str) -> dict[str, object]:
    """As much of `metrics.json` as a card shows, with a number of scored cells for each slide."""
    scores = {"mean": dict.fromkeys(COLUMNS, 1.0)}
    slides = {
        name: {
            "region": "test",
            "geometries": {"scattered": {"num_cells": number, "predictors": {"model": scores, "ridge": scores}}},
        }
        for name, number in num_cells.items()
    }
    verdict = {
        "sentences": {"model": sentence},
        "remarks": [],
        "models": {"model": {"scattered": {"best_baseline": "ridge"}}},
    }
    return {"verdict": verdict, "slides": slides, "provenance": {}}


def test_an_evaluation_of_fewer_cells_does_not_replace_one_of_more(run: Path) -> None:
    def sentence_after(num_cells: dict[str, int], sentence: str) -> str:
        written = update_card(run, evaluation_of(num_cells, sentence), "model")
        text = (run / "README.md").read_text(encoding="utf8")
        assert (sentence in text) == written
        return next(each for each in ("result 1", "result 2", "result 3", "result 4", "result 5") if each in text)

    write_card(run)
    assert sentence_after({"a --> b": 100}, "result 1") == "result 1"
    assert sentence_after({"a --> b": 20}, "result 2") == "result 1"
    assert sentence_after({"a --> b": 100}, "result 3") == "result 3"  # as many: the newer one
    assert sentence_after({"c": 20}, "result 4") == "result 4"  # of another slide
    write_card(run)  # trained further: the verdict was of other weights
    assert sentence_after({"c": 5}, "result 5") == "result 5"


def test_what_a_user_adds_is_kept(run: Path) -> None:
    write_card(run)
    path = run / "README.md"
    edited = (
        path.read_text(encoding="utf8").replace("library_name: cifm", "library_name: cifm\nlicense: mit") + "\nOurs.\n"
    )
    path.write_text(edited, encoding="utf8")
    assert write_card(run)
    assert path.read_text(encoding="utf8") == edited


@pytest.mark.parametrize("content", [b"my notes", b"\xff\xfe", b"<!-- cifm training: begin --> cut"])
def test_another_readme_is_left_alone(run: Path, content: bytes) -> None:
    (run / "README.md").write_bytes(content)
    assert not write_card(run)
    assert (run / "README.md").read_bytes() == content


def test_a_run_that_may_not_be_written_does_not_fail_an_evaluation(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = {"sentences": {"model": "s"}, "remarks": [], "models": {"model": {}}}
    metrics = {"verdict": verdict, "slides": {}, "provenance": {"models": {"model": run.as_posix(), "gone": "nowhere"}}}
    (run / "README.md").mkdir()
    assert update_cards(metrics) == []
    (run / "README.md").rmdir()
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "denied")))
        assert update_cards(metrics) == []
    shutil.rmtree(run)
    assert update_cards(metrics) == []
    assert not write_card(run)


def test_names_cannot_change_the_page() -> None:
    name = "a|b <script>`x`</script> [link](http://x)\n# heading"
    card = render_card(
        TrainingFacts(**{**vars(FACTS), "name": name, "slides": (TrainingSlideFacts(name),), "recipe": 'x = "````"'}),
        None,
    )
    assert "<script>" not in card
    assert "\n# heading" not in card
    row = next(line for line in card.splitlines() if line.startswith("| a"))
    assert row.replace(r"\|", "").count("|") == 6
    assert '`````toml\nx = "````"\n`````' in card


def test_an_imported_release_is_not_called_trained() -> None:
    card = render_card(TrainingFacts(**{**vars(FACTS), "imported": True, "slides": ()}), None)
    assert "the public release of the paper, imported by cifm 0.1.0" in card
    assert "trained with" not in card
