"""The annotator seam: names, entry points, the genes that a slide lacks, and the calls made of weights."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.celltype import registry
from cifm_cli.celltype.alignment import aligned_blocks, match_genes, require_overlap
from cifm_cli.celltype.base import UNASSIGNED, Annotation, UnlabelledCells, call_types
from cifm_cli.celltype.registry import installed, open_annotator
from cifm_cli.celltype.typer import MarkerTyper
from cifm_cli.errors import CifmError

SYMBOLS = ("G1", "G2", "G3", "G4")
CELLS = UnlabelledCells("slide", csr_matrix(np.eye(4, dtype=np.float32)), SYMBOLS)


def open_constant(path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool):
    """Somebody else's annotator: all cells are of the type that the path names."""

    class Constant:
        names = (str(path), UNASSIGNED)

        def annotate(self, expression: csr_matrix, _symbols: tuple[str, ...]) -> Annotation:
            codes = np.full(expression.shape[0], 0 if trust_pickle else 1)
            return Annotation(self.names, codes, np.ones(len(codes), dtype=np.float32))

    return Constant()


def entry(name: str, value: str) -> metadata.EntryPoint:
    return metadata.EntryPoint(name, value, registry.GROUP)


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with one sound annotator and one that does not load."""
    found = metadata.EntryPoints([entry("constant", f"{__name__}:open_constant"), entry("broken", "no_such_module:x")])
    monkeypatch.setattr(metadata, "entry_points", found.select)
    monkeypatch.setattr(metadata.EntryPoint, "load", load)


def load(point: metadata.EntryPoint):
    if point.name == "broken":
        raise ModuleNotFoundError("No module named 'no_such_module'")
    return open_constant


def test_ours_are_installed() -> None:
    assert {"celltypist", "markers", "reference", "scimilarity", "sctab"} <= set(installed())
    assert installed()["markers"] == "cifm"


def test_markers_open_by_name(tmp_path: Path) -> None:
    table = tmp_path / "own:1.tsv"  # a path may hold a colon
    table.write_text("cell_type\tsymbol\nodd\tG1\nodd\tG2\neven\tG3\neven\tG4\n")
    typer = open_annotator(f"markers:{table}", CELLS)
    assert isinstance(typer, MarkerTyper)
    assert typer.names == ("odd", "even", UNASSIGNED)


def test_a_panel_that_marks_no_two_types_is_refused() -> None:
    with pytest.raises(CifmError, match="slide slide: its panel marks 0 cell types"):
        open_annotator("markers", CELLS)


@pytest.mark.usefixtures("others")
def test_somebody_elses_is_found_and_handed_what_was_typed() -> None:
    found = open_annotator("constant:x", CELLS, trust_pickle=True)
    assert found.names == ("x", UNASSIGNED)
    assert set(found.annotate(CELLS.expression, SYMBOLS).labels) == {"x"}


@pytest.mark.usefixtures("others")
def test_one_that_does_not_load_says_why() -> None:
    assert set(installed()) == {"broken", "constant"}
    with pytest.raises(CifmError, match="annotator broken does not load: No module named 'no_such_module'"):
        open_annotator("broken", CELLS)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(CifmError, match="--annotator oracle:x: no such annotator") as error:
        open_annotator("oracle:x", CELLS)
    assert "celltypist, markers, reference" in error.value.hint


@pytest.mark.parametrize("name", ["celltypist", "reference", "scimilarity", "sctab"])
def test_models_must_be_named_and_be_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(CifmError, match=f"--annotator {name}: needs its model") as error:
        open_annotator(name, CELLS)
    assert f"--annotator {name}:" in error.value.hint
    with pytest.raises(CifmError, match="no such file or folder") as error:
        open_annotator(f"{name}:{tmp_path}/none", CELLS)
    assert "downloads nothing" in error.value.hint


def test_genes_are_found_by_symbol_whatever_the_case() -> None:
    assert match_genes(("g2", "X", "G1"), ("G1", "G2", "G1")).tolist() == [1, -1, 0]


def test_too_small_an_overlap_is_refused_with_numbers() -> None:
    genes = [f"G{number}" for number in range(1, 17)]
    require_overlap("model", genes, CELLS)  # 4 of 16: a quarter is enough
    with pytest.raises(
        CifmError, match=r"measures 4 of the 17 genes of model \(24%\), at least 25% are needed"
    ) as error:
        require_overlap("model", [*genes, "G17"], CELLS)
    assert "cifm annotate train" in error.value.hint


def test_aligned_cells_have_the_annotators_genes_in_its_order() -> None:
    expression = csr_matrix(np.log1p(np.array([[1000.0, 3000, 0, 6000], [0, 0, 10000, 0]], dtype=np.float32)))
    columns = match_genes(("G4", "other", "G1"), SYMBOLS)
    ((rows, plain),) = aligned_blocks(expression, columns, renormalise=False)
    assert rows == slice(0, 2)
    assert np.expm1(plain) == pytest.approx(np.array([[6000, 0, 1000], [0, 0, 0]]), rel=1e-5)
    ((_, cut),) = aligned_blocks(expression, columns, renormalise=True)
    assert np.expm1(cut) == pytest.approx(np.array([[60000 / 7, 0, 10000 / 7], [0, 0, 0]]), rel=1e-5)


def test_blocks_cover_all_cells_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifm_cli.celltype.alignment.BLOCK_VALUES", 8)
    expression = csr_matrix(np.arange(20, dtype=np.float32).reshape(5, 4))
    parts = list(aligned_blocks(expression, np.arange(4), renormalise=False))
    assert [part.start for part, _ in parts] == [0, 2, 4]
    assert np.array_equal(np.concatenate([block for _, block in parts]), expression.toarray())


def test_calls_by_hand() -> None:
    """Odds 3 : 1, 1 : 1 below the threshold, and a void cell."""
    weights = np.log(np.array([[3.0, 1.0], [5.0, 5.0], [9.0, 1.0]]))
    found = call_types(("a", "b"), weights, np.array([False, False, True]), threshold=0.6)
    assert found.labels.tolist() == ["a", UNASSIGNED, UNASSIGNED]
    assert found.scores == pytest.approx([0.75, 0.5, 0])
    assert np.exp(found.log_probabilities) == pytest.approx(np.array([[0.75, 0.25, 0], [0.5, 0.5, 0], [0.5, 0.5, 0]]))
    assert found.confidence == pytest.approx([0.75, 0.5, 0.5])


def test_scores_of_an_annotators_own_decide_where_it_has_them() -> None:
    found = call_types(("a", "b"), np.zeros((2, 2)), np.zeros(2, dtype=bool), np.array([0.9, 0.2]), threshold=0.5)
    assert found.labels.tolist() == ["a", UNASSIGNED]
    assert found.take(np.array([1])).labels.tolist() == [UNASSIGNED]
    assert found.take(found.codes == 0).scores == pytest.approx([0.9])
