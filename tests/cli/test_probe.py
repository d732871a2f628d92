"""`cifm probe`: its files, its JSON, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from cifm_cli import keys
from cifm_cli.data.writers.embedded import write_embedded

FEATURES = [
    keys.MICROENVIRONMENT,
    keys.CELL,
    "expression",
    "neighbourhood_average",
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
    assert cifm("probe", "embedded", "--label", keys.CLUSTER, "--folds", "2", "--out", "a/b.json").code == 0
    assert sorted(path.name for path in Path("a").iterdir()) == ["b.html", "b.json", "b.png"]


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
    assert f"hint: columns that can serve as labels: {keys.SPLIT}" in err
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


def test_different_cells_give_no_warning(cifm, embedded: Path) -> None:
    code, out, err = cifm("probe", embedded, "--label", keys.CLUSTER, "--folds", "2", "--json")
    assert (code, json.loads(out)["warnings"]) == (0, [])
    assert "Warnings" not in err
    assert "Warnings" not in Path("probe.html").read_text(encoding="utf8")


def test_a_section_of_few_radii_is_refused(cifm, embedded: Path) -> None:
    slide = ad.read_h5ad(embedded)
    offset_um = slide.obsm[keys.SPATIAL] - slide.obsm[keys.SPATIAL].min(axis=0)
    # A second block of 15 um, all of it within the gap around the first.
    slide.obsm[keys.SPATIAL] = offset_um / offset_um.max(axis=0) * [215.0, 50.0]
    slide.write_h5ad(embedded)
    code, _, err = cifm("probe", embedded, "--label", keys.CLUSTER, "--no-verify")
    assert code == 1
    assert "too few cells to probe" in err
    assert not Path("probe.json").exists()
