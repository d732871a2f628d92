"""`cifm probe`: its files, its JSON, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cifm_cli import keys
from cifm_cli.data.writers.embedded import write_embedded

pytestmark = pytest.mark.figures

FEATURES = [
    keys.MICROENVIRONMENT,
    keys.CELL,
    "expression",
    "neighbourhood_average",
    "neighbourhood_pca",
    "expression_and_neighbourhood",
    "majority",
]


@pytest.fixture
def embedded(prepared_synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An embedded slide; one of its embeddings is the one-hot label, the other is noise."""
    clusters = ad.read_h5ad(prepared_synthetic).obs[keys.CLUSTER]
    noise = np.random.default_rng(0).normal(size=(len(clusters), 3)).astype(np.float32)
    one_hot = np.eye(clusters.nunique(), dtype=np.float32)[clusters.cat.remove_unused_categories().cat.codes]
    origin = {
        "model": {"sha256": "m"},
        "radius_um": 20.0,
        "recipe": {"data": {"target_sum": 1e4}, "model": {"encoder_layers": 1}},
    }
    monkeypatch.chdir(tmp_path)
    write_embedded(
        Path("embedded/t.h5ad"), prepared_synthetic, {keys.MICROENVIRONMENT: one_hot, keys.CELL: noise}, origin
    )
    return Path("embedded/t.h5ad")


def test_a_probe_writes_json_a_page_and_a_chart(cifm, embedded: Path) -> None:
    code, out, err = cifm("probe", embedded, "--label", keys.CLUSTER, "--folds", "3", "--json")
    assert code == 0
    content = json.loads(out)
    assert content == json.loads(Path("probe.json").read_text(encoding="utf8"))
    assert list(content["features"]) == FEATURES
    assert content["provenance"]["inputs"].keys() == {"embedded/t.h5ad"}
    assert content["cells"] == sum(content["classes"].values())
    for facts in content["features"].values():
        for metric in ("roc_auc", "balanced_accuracy"):
            assert 0 <= facts[metric]["low"] <= facts[metric]["value"] <= facts[metric]["high"] <= 1
    assert content["features"][keys.MICROENVIRONMENT]["roc_auc"]["value"] > 0.99
    assert Path("probe.png").read_bytes().startswith(b"\x89PNG")
    assert keys.MICROENVIRONMENT in Path("probe.html").read_text(encoding="utf8")
    assert "best baseline" in err
    assert "computed from each cell's own expression" in err


def test_a_folder_of_slides_is_an_argument(cifm, embedded: Path) -> None:
    code, _, err = cifm("probe", "embedded", "--label", keys.CLUSTER, "--folds", "2", "--out", "a/b.json")
    assert code == 0, err
    assert sorted(path.name for path in Path("a").iterdir()) == sorted(
        ["b.html", "b.json", "b.png", "b.svg", "b_calibration.png", "b_calibration.svg"]
        + [f"b{table}.{suffix}" for table in ("", "_differences", "_slides") for suffix in ("csv", "parquet")]
    )
    scores = pd.read_csv("a/b.csv")
    assert scores["metric"].drop_duplicates().tolist() == ["roc_auc", "balanced_accuracy", "brier", "calibration_error"]
    content = json.loads(Path("a/b.json").read_text(encoding="utf8"))
    first = scores.iloc[0]
    assert first[["value", "low", "high"]].to_dict() == pytest.approx(content["features"][first["features"]]["roc_auc"])
    pd.testing.assert_frame_equal(scores, pd.read_parquet("a/b.parquet"), check_dtype=False)
    assert len(pd.read_csv("a/b_differences.csv")) == 2 * 3 * (len(FEATURES) - 1)
    assert Path("a/b.svg").read_text(encoding="utf8").startswith("<?xml")
    assert content["warnings"] == []
    assert "Warnings" not in err
    assert "Warnings" not in Path("a/b.html").read_text(encoding="utf8")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("clusters", "error: label clusters: no such column in t"),
        (keys.TOTAL_COUNTS, "different values, a probe takes at most 50"),
        ("condition", "error: label condition: no values"),
    ],
)
def test_a_wrong_label_lists_the_columns_that_can_be_probed(cifm, embedded: Path, label: str, message: str) -> None:
    code, out, err = cifm("probe", embedded, "--label", label)
    assert (code, out) == (1, "")
    assert message in err
    hint = err.splitlines()[-1]
    assert hint.startswith("hint: columns that can serve as labels: ")
    assert keys.CLUSTER in hint
    assert keys.SPLIT not in hint  # its regions were drawn by `cifm prepare`
    assert not Path("probe.json").exists()


def test_a_prepared_slide_must_be_embedded_first(cifm, embedded: Path, prepared_synthetic: Path) -> None:
    code, _, err = cifm("probe", prepared_synthetic, "--label", keys.CLUSTER)
    assert code == 1
    assert "holds no embedding" in err
    assert "hint: embed the slide first: `cifm embed" in err


def test_a_label_is_required(cifm, embedded: Path) -> None:
    code, _, err = cifm("probe", embedded)
    assert code == 2
    assert "--label" in err


@pytest.mark.usefixtures("blank_figures")
def test_the_same_cells_under_two_names_give_a_warning(cifm, embedded: Path) -> None:
    other = ad.read_h5ad(embedded)
    other.uns["cifm"]["sample"] = "other"
    other[:, ::-1].copy().write_h5ad("embedded/other.h5ad")
    code, out, err = cifm("probe", "embedded", "--label", keys.CLUSTER, "--folds", "2", "--json")
    assert code == 0
    (warning,) = json.loads(out)["warnings"]
    assert warning.endswith("the scores do not show how well the label of new cells is predicted")
    assert "have exactly the counts of a training cell" in err
    assert "Warnings about these scores" in err
    assert warning in Path("probe.html").read_text(encoding="utf8")


def shrink(embedded: Path, width_um: float, height_um: float) -> None:
    """Move the cells of an embedded slide into a rectangle; their embeddings reach 20 um."""
    slide = ad.read_h5ad(embedded)
    offset_um = slide.obsm[keys.SPATIAL] - slide.obsm[keys.SPATIAL].min(axis=0)
    slide.obsm[keys.SPATIAL] = offset_um / offset_um.max(axis=0) * [width_um, height_um]
    slide.write_h5ad(embedded)


@pytest.mark.usefixtures("blank_figures")
def test_strips_of_a_small_section_are_held_out(cifm, embedded: Path) -> None:
    """Two blocks of 200 um, the second of 15 um and within the buffer around the first: strips are 43 um wide."""
    shrink(embedded, 215.0, 50.0)
    code, out, err = cifm("probe", embedded, "--label", keys.CLUSTER, "--no-verify", "--json")
    assert code == 0, err
    content = json.loads(out)
    assert (content["groups"]["unit"], content["groups"]["number"], content["folds"]) == ("strip", 5, 5)
    assert 40 < content["groups"]["block_um"] < 50
    assert "5 strips of cells are held out in turn, instead of blocks" in err
    assert "in held-out strips of t" in content["evidence"]["answer"]
    assert any(
        "resample its 5 strips" in remark and "too narrow" in remark for remark in content["evidence"]["remarks"]
    )
    assert content["features"][keys.MICROENVIRONMENT]["roc_auc"]["value"] > 0.9


@pytest.mark.parametrize(
    ("width_um", "needed", "hint"),
    [
        (44.0, "5 folds need more than 50 um", "--folds 2, which need more than 40 um"),
        (25.0, "50 um", "longer section"),
    ],
)
def test_a_section_of_few_radii_is_refused(cifm, embedded: Path, width_um: float, needed: str, hint: str) -> None:
    shrink(embedded, width_um, 5.0)
    code, _, err = cifm("probe", embedded, "--label", keys.CLUSTER, "--no-verify")
    assert code == 1
    assert "too few cells to probe" in err
    assert needed in err
    assert hint in err.partition("hint: ")[2]
    assert not Path("probe.json").exists()


@pytest.fixture
def two_sides(embedded: Path) -> Path:
    """A second embedded slide of another sample and platform: other cells, with labels in a table."""
    other = ad.read_h5ad(embedded)
    keep = np.random.default_rng(1).random(other.n_obs) < 0.6
    other = other[keep].copy()
    other.uns["cifm"] |= {"sample": "other", "platform": "visium", "condition": "tumour"}
    other.write_h5ad("embedded/other.h5ad")
    first = ad.read_h5ad(embedded)
    first.uns["cifm"] |= {"condition": "normal"}
    first.write_h5ad(embedded)
    for path in (embedded, Path("embedded/other.h5ad")):
        cells = ad.read_h5ad(path).obs
        table = pd.DataFrame({"barcode": cells.index, "type": cells[keys.CLUSTER].astype(str), "x": 1.0})
        table.to_csv(f"{path.stem}.csv", index=False)
    return embedded.parent


def test_a_classifier_is_tested_on_other_slides(cifm, two_sides: Path) -> None:
    words = ("--label", "{slide}.csv:type", "--train-on", "xenium", "--max-cells", 500, "--no-verify", "--json")
    code, out, err = cifm("probe", two_sides, *words)
    assert code == 0
    content = json.loads(out)
    assert content["design"] == "train_and_test"
    assert content["sides"]["train"]["slides"] == ["t"]
    assert content["sides"]["test"]["platforms"] == ["visium"]
    assert content["sides"]["train"]["cells"] <= 500
    assert content["features"][keys.MICROENVIRONMENT]["roc_auc"]["value"] > 0.99
    assert {"t.csv", "other.csv"} <= content["provenance"]["inputs"].keys()
    page = Path("probe.html").read_text(encoding="utf8")
    assert page.index("The microenvironment embedding (X_cifm) predicts") < page.index("<table")
    assert content["evidence"]["answer"] in err.replace("\n", " ")
    assert "Slides, not cells, are the evidence" in err.replace("\n", " ")
    assert "are never divided at random" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--train-on", "t", "--test-on", "t"), "error: slide t is on both sides: a random split of its cells"),
        (("--train-on", "cosmx"), "error: --train-on cosmx: no slide, sample or platform of this name"),
        (("--train-on", "*"), "error: --train-on names all slides"),
        (("--positive", "no such type"), "error: label cluster: no class 'no such type'"),
        (("--label", "t.csv:kind"), "error: t.csv: no column 'kind', but barcode, type, x"),
        (("--label", "t.csv:type"), "is that of a cell in several slides"),
        (("--label", "missing.csv:type"), "missing.csv"),
        (("--label", "condition"), "error: label condition: fewer than two classes"),
        (("--label", "condition", "--train-on", "t"), "fewer than two classes have 20 cells on both sides"),
        (("--out", "probe.csv"), "error: --out probe.csv: names the JSON file"),
    ],
)
def test_probes_that_cannot_be_made_are_refused(cifm, two_sides: Path, words: tuple[str, ...], message: str) -> None:
    label = () if "--label" in words else ("--label", keys.CLUSTER)
    code, out, err = cifm("probe", two_sides, *label, *words, "--no-verify")
    assert (code, out) == (1, "")
    assert message in err.replace("\n", " ")
    assert "hint: " in err
    assert not list(Path().glob("probe*"))
