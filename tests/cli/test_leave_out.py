"""`cifm evaluate --leave-out`: every group is left out once, interrupted trainings go on, and errors come before any training."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from html import unescape
from pathlib import Path

import anndata as ad
import pytest
from builders import interrupt_training, use_few_baselines

from cifm_cli.cross_validation import training
from cifm_cli.cross_validation.groups import group_slides
from cifm_cli.errors import CifmError
from cifm_cli.training.config import TrainConfig

RECIPE = """
[data]
tile_cells = 256
[model]
width = 8
[objective]
states = 4
scales = [1.0, 2.0]
cutoff = 3.0
linear_rank = 0  # its fit takes longer than the steps
[train]
steps = 2
validation_tiles = 1
[evaluate]
geometries = ["scattered", "whole"]
"""
SAMPLES = {"a1": "A", "b1": "B", "c1": "C/c"}
WORDS = ("evaluate", "--leave-out", "sample", "--recipe", "short.toml", "--rounds", "1", "--backend", "torch", "--json")


@pytest.fixture(scope="module")
def slides(build_once: Callable) -> Path:
    """Three small prepared slides of three samples."""
    from cifm_cli.app import main
    from cifm_cli.synthetic.downloads import write_xenium

    def build(folder: Path) -> None:
        for seed, (name, sample) in enumerate(SAMPLES.items()):
            write_xenium(folder / "downloads" / name, 200, seed=seed, num_genes=100)
            words = ["prepare", folder / "downloads" / name, "--out", folder / "prepared", "--sample", sample]
            assert main([str(word) for word in words]) == 0

    return build_once("three_samples", build) / "prepared"


@pytest.fixture(scope="module")
def workspace(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the slides and a recipe of two steps."""
    folder = tmp_path_factory.mktemp("leave_out")
    (folder / "prepared").symlink_to(slides, target_is_directory=True)
    (folder / "short.toml").write_text(RECIPE, encoding="utf8")
    return folder


@pytest.fixture(autouse=True)
def in_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)


@pytest.fixture(scope="module")
def evaluated(build_once: Callable, workspace: Path) -> dict:
    """The content of `metrics.json` when each sample was left out, with the trainings in `whole/leave_out`."""
    from cifm_cli.app import main

    def build(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(workspace)
            use_few_baselines(patch)
            assert main([*WORDS, "--out", "whole"]) == 0
        shutil.move(workspace / "whole", folder)

    shutil.copytree(build_once("leave_out", build) / "whole", workspace / "whole", symlinks=True)
    return json.loads((workspace / "whole" / "metrics.json").read_text())


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """The settings of every training that is started."""
    configs: list[TrainConfig] = []
    launch = training.launch

    def record(config: TrainConfig) -> object:
        configs.append(config)
        return launch(config)

    monkeypatch.setattr(training, "launch", record)
    return configs


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*_: object) -> None:
        raise AssertionError("a training was started")

    monkeypatch.setattr(training, "launch", launch)


def test_every_slide_is_evaluated_with_a_model_of_the_other_samples(evaluated: dict) -> None:
    assert list(evaluated["slides"]) == ["a1", "b1", "c1"]
    for name, facts in evaluated["slides"].items():
        scenario = facts["scenario"]["model"]
        assert (scenario["name"], scenario["adaptation"]) == ("cross-sample", "adapted")
        assert scenario["trained_on"] == [other for other in SAMPLES if other != name]
        assert scenario["trained_cells_scored"] == 0
        assert facts["checks"]["models"]["model"]["trained_cells"] == 0
        assert facts["region"] == "all"
        assert list(facts["geometries"]) == ["scattered"], "whole leaves no visible cells in the region all"


def test_the_groups_are_described(evaluated: dict) -> None:
    facts = evaluated["leave_out"]
    assert (facts["key"], facts["num_groups"]) == ("sample", 3)
    assert {name: group["slides"] for name, group in facts["groups"].items()} == {
        "A": ["a1"],
        "B": ["b1"],
        "C/c": ["c1"],
    }
    assert [group["run"] for group in facts["groups"].values()] == [
        f"whole/leave_out/{name}" for name in ("A", "B", "C_c")
    ]
    assert all(group["training"]["steps"] == 2 for group in facts["groups"].values())
    assert ["come from 3 groups" in warning for warning in facts["warnings"]] == [True]
    inputs = evaluated["provenance"]["inputs"]
    assert {"prepared/a1.h5ad", "whole/leave_out/C_c/model.safetensors"} <= set(inputs)
    assert evaluated["provenance"]["backend"] == "torch"


def test_the_mean_over_slides_follows_from_the_slides(evaluated: dict) -> None:
    overall = evaluated["overall"]["scattered"]
    found = [facts["geometries"]["scattered"] for facts in evaluated["slides"].values()]
    for metric, lower_is_better in (("mse", True), ("deviance", True), ("auroc", False)):
        pairs = [of_slide["paired"][metric] for of_slide in found]
        each = overall[metric]["each_slide"]
        differences = [pair["difference"] for pair in pairs]
        assert each["difference"] == pytest.approx(sum(differences) / 3)
        assert each["num_better"] == sum((difference < 0) == lower_is_better for difference in differences)
        assert (overall[metric]["num_slides"], overall[metric]["num_groups"]) == (3, 3)
        if lower_is_better:
            relative = [
                100 * pair["difference"] / of_slide["predictors"][pair["best_baseline"]][pair["form"]][metric]
                for pair, of_slide in zip(pairs, found, strict=True)
            ]
            assert each["percent"]["difference"] == pytest.approx(sum(relative) / 3)
            assert each["percent"]["low"] <= each["percent"]["difference"] <= each["percent"]["high"]


def test_the_page_begins_with_a_row_for_each_slide(evaluated: dict) -> None:
    page = Path("whole/report.html").read_text().partition("<h2>a1, scattered: the model and")[0]
    assert "Leave one sample out, scattered: model against the best baseline of each slide" in page
    assert "mean over 3 slides in 3 groups: squared error" in page
    assert "with fewer than 5 they are too narrow" in page
    for name, sample in SAMPLES.items():
        assert f">{name}<" in page
        assert f">{sample}<" in page
    sentence = evaluated["verdict"]["sentence"]
    assert sentence.startswith("3 slides, one sample of 3 left out at a time: the model ")
    assert sentence in unescape(page)
    pair = evaluated["overall"]["scattered"]["mse"]["each_slide"]
    assert f"{pair['percent']['difference']:+.2f} %" in page
    assert f"better on {pair['num_better']} of 3" in page


@pytest.mark.usefixtures("few_baselines")
def test_an_interrupted_run_goes_on(
    cifm: Callable, evaluated: dict, trained: list[TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_training(patch, 3, signal.SIGTERM)  # the first of the two steps of the second training
        code, _, err = cifm(*WORDS, "--out", "stopped")
    assert code == 143
    assert "3 trainings, 2 steps each, one without each sample: A (1 slide(s)), B (1 slide(s)), C/c" in err
    assert "the same command continues this training" in err
    assert "A: scoring a1; 0 of 3 slides are scored" in err
    assert "the scores of 1 slides are lost: the same command computes them again" in err
    assert [config.folder.name for config in trained] == ["A", "B"]
    assert not Path("stopped/metrics.json").exists()
    trained.clear()
    code, out, err = cifm(*WORDS, "--out", "stopped")
    assert code == 0, err
    assert "1 of them finished before, 1 continue" in err
    assert "A: trained before" in err
    assert [(config.folder.name, config.resume) for config in trained] == [("B", True), ("C_c", False)]
    metrics = json.loads(out)
    for entry in ("slides", "overall"):
        assert metrics[entry] == evaluated[entry], "as without the interruption"


@pytest.mark.usefixtures("evaluated", "no_training")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train-minutes", "3"], "another recipe ([train])"),
        (["--set", "model.width=4", "--set", "train.steps=3"], "another recipe ([model] [train])"),
        (["--seed", "1"], "another --seed"),
        (["--leave-out", "slide"], "another --leave-out (sample)"),
        (["prepared/a1.h5ad", "prepared/b1.h5ad"], "another set of slides"),
    ],
)
def test_trainings_of_other_settings_are_not_continued(cifm: Callable, words: list[str], message: str) -> None:
    code, _, err = cifm(*WORDS, *words, "--out", "whole")
    assert code == 1
    assert f"error: whole/leave_out: its trainings were started with {message}" in err
    assert "hint: give the same again to continue them, choose another --out, or remove this folder" in err


@pytest.mark.usefixtures("evaluated")
def test_a_changed_slide_is_not_evaluated_with_earlier_trainings(cifm: Callable, workspace: Path) -> None:
    changed = workspace / "changed"
    shutil.copytree(workspace / "prepared", changed)
    slide = ad.read_h5ad(changed / "b1.h5ad")
    slide.uns["cifm"]["condition"] = "other"
    slide.write_h5ad(changed / "b1.h5ad")
    code, _, err = cifm(*WORDS, changed, "--out", "whole")
    assert code == 1
    assert "started with another set of slides, or slides with another content or group" in err


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["prepared/a1.h5ad"], "all 1 slide(s) have the sample A, none is left", "at least two groups"),
        (["--leave-out", "platform"], "all 3 slide(s) have the platform xenium, none is left", "--leave-out slide"),
        (["--leave-out", "patient"], "no slide stores it; they store condition, platform", "--leave-out sample"),
        (["--leave-out", "condition"], "a1.h5ad stores no condition", "cifm prepare --sample"),
        (["--leave-out", ""], "no slide stores it", "--leave-out sample"),
        (["--leave-out", "report"], "no slide stores it", "--leave-out sample"),
        (["--recipe", "nowhere.toml"], "recipe nowhere.toml: no such file", "shipped recipes"),
        (["--geometry", "whole"], "--region all leaves no visible cells in the geometry whole", "another region"),
        (["--annotator", "oracle"], "--annotator oracle: no such annotator", "markers"),
        (["prepared", "damaged.h5ad"], "damaged.h5ad: not a prepared slide", ""),
        (["nowhere.h5ad"], "nowhere.h5ad: no such file", "cifm prepare"),
    ],
)
def test_errors_come_before_any_training(cifm: Callable, words: list[str], message: str, hint: str) -> None:
    Path("damaged.h5ad").write_bytes(b"nothing")
    code, out, err = cifm(*WORDS, *words, "--out", "refused")
    assert (code, out) == (1, "")
    *_, error, advice = err.strip().splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert advice.startswith("hint: ")
    assert hint in advice
    assert not Path("refused").exists()


def test_a_damaged_plan_is_an_error(cifm: Callable) -> None:
    folder = Path("damaged/leave_out")
    (folder / "A").mkdir(parents=True)
    (folder / "plan.json").write_text("{")
    code, _, err = cifm(*WORDS, "--out", "damaged")
    assert code == 1
    assert "error: damaged/leave_out/plan.json: damaged" in err


def test_a_plan_without_trainings_is_replaced(cifm: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first training fails before it has written anything, and the next command may have another recipe."""

    def fail(*_: object) -> None:
        raise CifmError("it failed", "try again")

    monkeypatch.setattr(training, "launch", fail)
    for seed in ("0", "1"):
        code, _, err = cifm(*WORDS, "--seed", seed, "--out", "failed")
        assert code == 1
        assert "error: it failed" in err
    assert json.loads(Path("failed/leave_out/plan.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--leave-out", "sample", "--model", "runs/x"], "--leave-out trains its own models"),
        (["--recipe", "demo"], "--recipe, --set and --train-minutes are for the trainings of --leave-out"),
        (["--set", "train.steps=3"], "are for the trainings of --leave-out"),
        (["--train-minutes", "2"], "are for the trainings of --leave-out"),
        (["--leave-out", "sample", "--train-minutes", "0"], "train-minutes"),
    ],
)
def test_options_that_exclude_each_other(cifm: Callable, words: list[str], message: str) -> None:
    code, _, err = cifm("evaluate", *words)
    assert code == 2
    assert message in err


def test_without_a_recipe_that_for_other_slides_is_used(cifm: Callable) -> None:
    code, _, err = cifm("evaluate", "--leave-out", "sample", "--set", "model.heads=3")
    assert code == 1
    assert "pretrain.toml: 1 mistake: model.heads = 3 does not divide" in " ".join(err.split())


def with_keys(folder: Path, source: Path, **values: object) -> Path:
    """Copy a slide with other entries of `uns["cifm"]`."""
    slide = ad.read_h5ad(source)
    slide.uns["cifm"].update(values)
    path = folder / f"{len(list(folder.iterdir()))}.h5ad"
    slide.write_h5ad(path)
    return path


def test_slides_are_grouped_by_any_text_or_number(tmp_path: Path) -> None:
    source = Path("prepared/a1.h5ad")
    stored: list[dict] = [
        {"patient": "P 2"},
        {"patient": "P/1"},
        {"patient": "P 2"},
        {"patient": "p/1"},
        {"patient": "../x"},
    ]
    paths = [with_keys(tmp_path, source, **values) for values in stored]
    groups = group_slides(paths, "patient")
    assert [(group.name, group.slides) for group in groups] == [
        ("../x", (paths[4],)),
        ("P 2", (paths[0], paths[2])),
        ("P/1", (paths[1],)),
        ("p/1", (paths[3],)),
    ]
    # Names of folders, which differ also where the file system ignores case.
    assert [group.folder for group in groups] == ["_x", "P 2", "P_1", "p_1-2"]
    numbered = [with_keys(tmp_path, source, batch=number) for number in (2, 1)]
    assert [group.name for group in group_slides(numbered, "batch")] == ["1", "2"]
    with pytest.raises(CifmError, match=f"{numbered[0].name} stores no patient"):
        group_slides([*paths, numbered[0]], "patient")
