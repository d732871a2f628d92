"""`cifm annotate check`, types in obs, pages, and training from profiles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

pytestmark = pytest.mark.figures


@pytest.fixture(autouse=True)
def in_workspace(prepared_synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with one prepared slide, a copy that may be changed."""
    (tmp_path / "prepared").mkdir()
    shutil.copy(prepared_synthetic, tmp_path / "prepared/tissue.h5ad")
    monkeypatch.chdir(tmp_path)


def test_markers_are_compared_with_labels(cifm) -> None:
    code, out, err = cifm(
        "annotate", "check", "prepared/tissue.h5ad", "--label", "cluster", "--tissue", "pancreas", "--json"
    )
    assert code == 0, err
    result = json.loads(out)
    assert result["lineage_accuracy"] > 0.9
    assert result["impossible"]["fraction"] == 0
    assert result["meaning_of_labels"]["t_cell"] == "T cell"
    assert len(result["confusion"]["cells"]) == len(result["confusion"]["labels"])
    assert result["provenance"]["inputs"].keys() == {"prepared/tissue.h5ad"}
    assert json.loads(Path("annotated/tissue.check.json").read_text(encoding="utf8")) == result
    assert "Confusion" in Path("annotated/tissue.check.html").read_text(encoding="utf8")
    assert "lineage accuracy" in err


def test_types_are_added_to_obs_and_the_slide_stays_intact(cifm) -> None:
    before = ad.read_h5ad("prepared/tissue.h5ad")
    for _ in range(2):  # the second time replaces the columns of the first
        code, out, err = cifm(
            "annotate", "apply", "--tissue", "pancreas", "--write-obs", "prepared/tissue.h5ad", "--json"
        )
        assert code == 0, err
    after = ad.read_h5ad("prepared/tissue.h5ad")
    assert list(after.obs)[-3:] == ["cifm_cell_type", "cifm_cell_lineage", "cifm_cell_type_score"]
    assert list(after.obs)[:-3] == list(before.obs)
    assert (after.X != before.X).nnz == 0
    lineage = after.obs["cifm_cell_lineage"][after.obs["cifm_cell_type"] == "T cell"]
    assert set(lineage) == {"lymphoid cell"}
    facts = json.loads(out)["slides"]["tissue"]
    assert after.obs["cifm_cell_type"].value_counts()["T cell"] == facts["types"]["T cell"]["cells"]
    assert "types that it lacks are left out" in " ".join(facts["limits"])
    page = Path(facts["page"]).read_text(encoding="utf8")
    assert page.count("data:image/png") == 2 * 3  # for light and for dark pages
    # Other commands still take the slide, and its types are labels for another slide.
    assert cifm("inspect", "prepared/tissue.h5ad").code == 0
    assert cifm("annotate", "train", "prepared/tissue.h5ad", "--label", "cifm_cell_type").code == 0


def test_cells_of_another_slide_are_an_error_before_anything_is_written(cifm) -> None:
    other = ad.read_h5ad("prepared/tissue.h5ad")[:5].copy()
    other.obs_names = [f"other-{number}" for number in range(5)]
    other.write_h5ad("other.h5ad")
    code, _, err = cifm("annotate", "apply", "--write-obs", "other.h5ad")
    assert code == 1
    assert "other.h5ad: cell other-0 is not on slide tissue" in err
    assert not Path("annotated").exists()


def test_a_column_of_another_program_is_kept(cifm) -> None:
    slide = ad.read_h5ad("prepared/tissue.h5ad")
    slide.obs["cifm_cell_type"] = "mine"
    slide.write_h5ad("mine.h5ad")
    code, _, err = cifm("annotate", "apply", "--write-obs", "mine.h5ad")
    assert code == 1
    assert "obs has a column cifm_cell_type of another program" in err
    assert set(ad.read_h5ad("mine.h5ad").obs["cifm_cell_type"]) == {"mine"}


@pytest.mark.usefixtures("blank_figures")
def test_a_classifier_is_trained_on_a_table_of_profiles(cifm) -> None:
    slide = ad.read_h5ad("prepared/tissue.h5ad")
    names = [name for name in slide.obs["cluster"].cat.categories if name in {"t_cell", "acinar", "fibroblast"}]
    means = [np.asarray(slide[slide.obs["cluster"] == name].X.mean(axis=0)).ravel() for name in names]
    symbols = slide.var.get("symbol", slide.var_names)
    lines = [",".join(["", *names])]
    lines += [
        ",".join([str(gene), *(f"{value:.5f}" for value in row)]) for gene, *row in zip(symbols, *means, strict=True)
    ]
    Path("profiles.csv").write_text("\n".join(lines), encoding="utf8")
    code, out, err = cifm("annotate", "train", "profiles.csv", "--for", "prepared/tissue.h5ad", "--json")
    assert code == 0, err
    assert json.loads(out)["balanced_accuracy"] > 0.9
    code, out, err = cifm(
        *("annotate", "check", "prepared/tissue.h5ad", "--label", "cluster"),
        *("--annotator", "reference:annotators/profiles.safetensors", "--json"),
    )
    assert code == 0, err
    recall = json.loads(out)["lineages"]
    assert recall["lymphoid cell"]["recall"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["apply", "--tissue", "moon"], "--tissue 'moon' names no tissue", "pancreas"),
        (["check", "none.h5ad", "--label", "x"], "none.h5ad", ""),
        (["check", "prepared/tissue.h5ad", "--label", "x"], "no obs column 'x'", "cluster"),
        (["apply", "--write-obs", "none.h5ad"], "none.h5ad: no such file", ""),
        (["train", "none.csv"], "none.csv: no such file", ""),
    ],
)
def test_errors_are_one_line_and_a_hint(cifm, arguments: list[str], message: str, hint: str) -> None:
    code, out, err = cifm("annotate", *arguments)
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    *_, error, advice = err.strip().splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert hint in advice
