"""`cifm annotate`: training on labelled cells, annotation with the result, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest
from builders import forget_checksums

from cifm_cli.data.slide import open_slide

pytestmark = pytest.mark.figures


@pytest.fixture(scope="module")
def workspace(prepared_synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one prepared slide, and its cells with labels."""
    folder = tmp_path_factory.mktemp("annotate")
    (folder / "prepared").symlink_to(prepared_synthetic.parent, target_is_directory=True)
    tissue = ad.read_h5ad(prepared_synthetic)
    tissue.obs["type"] = tissue.obs["cluster"].astype(str).replace("nan", "")
    ad.AnnData(tissue.X, obs=tissue.obs[["type"]], var=tissue.var).write_h5ad(folder / "labelled.h5ad")
    return folder


@pytest.fixture(autouse=True)
def in_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)


@pytest.fixture(scope="module")
def trained(workspace: Path) -> Path:
    """A classifier for the slide."""
    from cifm_cli.app import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        assert main(["annotate", "train", "labelled.h5ad", "--label", "type", "--for", "prepared/tissue.h5ad"]) == 0
    return Path("annotators/labelled.safetensors")


def test_markers_annotate_every_cell_in_the_order_of_the_download(cifm) -> None:
    code, out, err = cifm("annotate", "apply", "--json")
    assert code == 0
    result = json.loads(out)
    assert result == json.loads(Path("annotated/annotated.json").read_text(encoding="utf8"))
    table = pd.read_csv("annotated/tissue.csv", index_col="cell_id")
    slide = ad.read_h5ad("prepared/tissue.h5ad")
    assert list(table) == ["cell_type", "score", "lineage"]
    assert table.index.tolist() == slide.obs_names[slide.obs["download_row"].argsort()].tolist()
    truth = slide.obs["cluster"].astype(str).reindex(table.index)
    assert (table["cell_type"][truth == "t_cell"] == "T cell").mean() > 0.9
    types = result["slides"]["tissue"]["types"]
    assert {name: part["cells"] for name, part in types.items()} == table["cell_type"].value_counts().to_dict()
    assert "T cell" in err


def test_a_trained_classifier_annotates_a_slide(cifm, trained: Path) -> None:
    code, out, err = cifm("annotate", "apply", "--annotator", f"reference:{trained}", "--out", "own", "--json")
    assert code == 0
    table = pd.read_csv("own/tissue.csv", index_col="cell_id")
    truth = ad.read_h5ad("labelled.h5ad").obs["type"].astype(str).reindex(table.index)
    is_assigned = table["cell_type"] != "unassigned"
    assert (table["cell_type"] == truth)[is_assigned & (truth != "")].mean() > 0.9
    origin = json.loads(out)["provenance"]
    assert origin["annotator"] == f"reference:{trained}"
    assert origin["inputs"].keys() == {"prepared/tissue.h5ad", str(trained)}
    assert err.count("\n") > 5


def test_training_reports_scores_on_held_out_cells(cifm) -> None:
    arguments = [
        "annotate",
        "train",
        "labelled.h5ad",
        "--label",
        "type",
        "--out",
        "t.safetensors",
        "--threshold",
        "0.9",
    ]
    code, out, err = cifm(*arguments, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["accuracy"] > 0.9
    assert report["cells"]["report"] > 50
    assert report["repeated"] == 0
    assert "held-out cells have exactly" not in err
    assert set(report["recall"]) == set(report["types"])
    assert "balanced accuracy" in err
    assert "--annotator reference:t.safetensors" in err
    code, out, _ = cifm("inspect", "t.safetensors", "--json")
    description = json.loads(out)
    assert description["kind"] == "cell type classifier"
    assert description["threshold"] == 0.9
    assert description["provenance"]["inputs"].keys() == {"labelled.h5ad"}


def test_cells_that_occur_twice_in_the_reference_give_a_warning(cifm) -> None:
    once = ad.read_h5ad("labelled.h5ad")
    ad.concat([once, once[::2]], index_unique="-", keys=["first", "second"], merge="same").write_h5ad("doubled.h5ad")
    arguments = ("--label", "type", "--out", "t.safetensors", "--json")
    code, out, err = cifm("annotate", "train", "doubled.h5ad", *arguments)
    assert code == 0
    report = json.loads(out)
    assert report["cells"]["report"] / 3 < report["repeated"] < report["cells"]["report"]
    assert f"warning: {report['repeated']} of the {report['cells']['report']} held-out cells have exactly" in err


def test_annotators_are_listed(cifm) -> None:
    code, out, _ = cifm("annotate", "list")
    assert code == 0
    assert "markers      from cifm" in out
    assert json.loads(cifm("annotate", "list", "--json").out)["reference"] == "cifm"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["apply", "--annotator", "oracle"], "--annotator oracle: no such annotator", "markers"),
        (
            ["apply", "--annotator", "markers:no.tsv"],
            "marker table no.tsv: no such file",
            "name it with --annotator markers:",
        ),
        (["apply", "--annotator", "reference"], "needs its model", "FILE.safetensors"),
        (["apply", "--annotator", "reference:labelled.h5ad"], "not a readable cell type classifier", "annotate train"),
        (["apply", "--annotator", "celltypist:labelled.h5ad"], "a pickle, which can hold any code", "--trust-pickle"),
        (["train", "labelled.h5ad", "--label", "kind"], "no obs column 'kind'", "--label: type"),
        (["train", "none.h5ad", "--label", "kind"], "none.h5ad", ""),
    ],
)
def test_errors_are_one_line_and_a_hint(cifm, arguments: list[str], message: str, hint: str) -> None:
    code, out, err = cifm("annotate", *arguments)
    assert (code, out) == (1, "")
    *_, error, advice = err.strip().splitlines()
    assert message in error
    assert advice.startswith("hint: ")
    assert hint in advice


def test_a_panel_too_small_for_a_classifier_is_refused(cifm, trained: Path) -> None:
    slide = ad.read_h5ad("prepared/tissue.h5ad")
    forget_checksums(slide[:, :5]).write_h5ad("few_genes.h5ad")
    known = open_slide(Path("prepared/tissue.h5ad")).num_genes
    code, _, err = cifm("annotate", "apply", "few_genes.h5ad", "--annotator", f"reference:{trained}", "--no-verify")
    assert code == 1
    assert "its panel measures 5 of the" in err
    assert known > 20


def test_two_slides_of_one_name_are_refused(cifm, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "demo1.h5ad").symlink_to(Path("prepared/tissue.h5ad").resolve())
    both = [tmp_path / folder / "demo1.h5ad" for folder in ("a", "b")]
    code, out, err = cifm("annotate", "apply", *both, "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert f"two slides are called demo1: {both[0]} and {both[1]}" in err
    assert not (tmp_path / "out").exists()


def test_a_second_slide_that_is_unusable_leaves_no_partial_result(cifm, tmp_path: Path) -> None:
    forget_checksums(ad.read_h5ad("prepared/tissue.h5ad")[:, :5]).write_h5ad(tmp_path / "few_genes.h5ad")
    (tmp_path / "broken.h5ad").write_bytes(b"no HDF5")
    for bad, message in (("few_genes.h5ad", "its panel marks"), ("broken.h5ad", "not a prepared slide")):
        slides = ("prepared/tissue.h5ad", tmp_path / bad)
        code, out, err = cifm("annotate", "apply", *slides, "--no-verify", "--out", tmp_path / "out")
        assert (code, out) == (1, "")
        assert message in err
        assert not (tmp_path / "out").exists()


def test_a_cell_without_a_position_is_named(cifm, tmp_path: Path) -> None:
    slide = ad.read_h5ad("prepared/tissue.h5ad")
    slide.obsm["spatial"][3, 0] = float("nan")
    slide.write_h5ad(tmp_path / "nowhere.h5ad")
    code, _, err = cifm("annotate", "apply", tmp_path / "nowhere.h5ad", "--out", tmp_path / "out")
    assert code == 1
    assert f"nowhere.h5ad: cell {slide.obs_names[3]!r} (row 3) has the coordinates (nan, " in err


def test_wrong_usage_exits_with_2(cifm) -> None:
    assert cifm("annotate", "apply", "--seed", "-1").code == 2
    assert cifm("annotate", "train", "labelled.h5ad").code == 2
