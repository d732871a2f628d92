"""The registry of annotators, the alignment of genes, the types called from weights, and annotation in memory."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.celltype import registry
from cifm_cli.celltype.alignment import aligned_blocks, match_genes, require_overlap
from cifm_cli.celltype.annotate import annotate, annotate_expression, open_for_slide, sample_rows
from cifm_cli.celltype.base import UNASSIGNED, Annotation, UnlabelledCells, call_types
from cifm_cli.celltype.marker_annotator import MarkerAnnotator
from cifm_cli.celltype.registry import installed_annotators, open_annotator
from cifm_cli.data.slide import slide_from_arrays
from cifm_cli.errors import CifmError

SYMBOLS = ("G1", "G2", "G3", "G4")
CELLS = UnlabelledCells("slide", csr_matrix(np.eye(4, dtype=np.float32)), SYMBOLS)


def open_constant(path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool):
    """An annotator of another package: all cells have the type that the path names."""

    class Constant:
        names = (str(path), UNASSIGNED)

        def annotate(self, expression: csr_matrix, _symbols: tuple[str, ...]) -> Annotation:
            codes = np.full(expression.shape[0], 0 if trust_pickle else 1)
            return Annotation(self.names, codes, np.ones(len(codes), dtype=np.float32))

    return Constant()


def entry(name: str, value: str) -> metadata.EntryPoint:
    return metadata.EntryPoint(name, value, registry.GROUP)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with one working annotator and one that does not load."""
    entries = metadata.EntryPoints(
        [entry("constant", f"{__name__}:open_constant"), entry("broken", "no_such_module:x")]
    )
    monkeypatch.setattr(metadata, "entry_points", entries.select)
    monkeypatch.setattr(metadata.EntryPoint, "load", load)


def load(point: metadata.EntryPoint):
    if point.name == "broken":
        raise ModuleNotFoundError("No module named 'no_such_module'")
    return open_constant


def test_the_included_annotators_are_installed() -> None:
    assert {"celltypist", "markers", "reference", "scimilarity", "sctab"} <= set(installed_annotators())
    assert installed_annotators()["markers"] == "cifm"


def test_the_marker_annotator_opens_by_name(tmp_path: Path) -> None:
    table = tmp_path / "own:1.tsv"  # a path may hold a colon
    table.write_text("cell_type\tsymbol\nodd\tG1\nodd\tG2\neven\tG3\neven\tG4\n")
    annotator = open_annotator(f"markers:{table}", CELLS)
    assert isinstance(annotator, MarkerAnnotator)
    assert annotator.names == ("odd", "even", UNASSIGNED)


def test_a_panel_with_markers_of_fewer_than_two_types_is_refused() -> None:
    with pytest.raises(CifmError, match="slide slide: its panel marks 0 cell types"):
        open_annotator("markers", CELLS)


@pytest.mark.usefixtures("plugins")
def test_a_plugin_is_found_and_given_the_path() -> None:
    annotator = open_annotator("constant:x", CELLS, trust_pickle=True)
    assert annotator.names == ("x", UNASSIGNED)
    assert set(annotator.annotate(CELLS.expression, SYMBOLS).labels) == {"x"}


@pytest.mark.usefixtures("plugins")
def test_a_plugin_that_does_not_load_is_reported_with_its_error() -> None:
    assert set(installed_annotators()) == {"broken", "constant"}
    with pytest.raises(CifmError, match="annotator broken does not load: No module named 'no_such_module'"):
        open_annotator("broken", CELLS)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(CifmError, match="--annotator oracle:x: no such annotator") as error:
        open_annotator("oracle:x", CELLS)
    assert "celltypist, markers, reference" in error.value.hint


@pytest.mark.parametrize("name", ["celltypist", "reference", "scimilarity", "sctab"])
def test_a_model_needs_a_path_that_exists(name: str, tmp_path: Path) -> None:
    with pytest.raises(CifmError, match=f"--annotator {name}: needs its model") as error:
        open_annotator(name, CELLS)
    assert f"--annotator {name}:" in error.value.hint
    with pytest.raises(CifmError, match="no such file or folder") as error:
        open_annotator(f"{name}:{tmp_path}/none", CELLS)
    assert "downloads nothing" in error.value.hint


def test_genes_are_matched_by_symbol_ignoring_case() -> None:
    assert match_genes(("g2", "X", "G1"), ("G1", "G2", "G1")).tolist() == [1, -1, 0]


def test_too_small_an_overlap_is_refused_with_numbers() -> None:
    genes = [f"G{number}" for number in range(1, 17)]
    require_overlap("model", genes, CELLS)  # 4 of 16: a quarter is enough
    with pytest.raises(
        CifmError, match=r"measures 4 of the 17 genes of model \(24%\), at least 25% are needed"
    ) as error:
        require_overlap("model", [*genes, "G17"], CELLS)
    assert "cifm annotate train" in error.value.hint


def test_aligned_expression_is_in_the_annotators_order_of_genes() -> None:
    expression = csr_matrix(np.log1p(np.array([[1000.0, 3000, 0, 6000], [0, 0, 10000, 0]], dtype=np.float32)))
    columns = match_genes(("G4", "other", "G1"), SYMBOLS)
    ((rows, plain),) = aligned_blocks(expression, columns, renormalise=False)
    assert rows == slice(0, 2)
    assert np.expm1(plain) == pytest.approx(np.array([[6000, 0, 1000], [0, 0, 0]]), rel=1e-5)
    ((_, renormalised),) = aligned_blocks(expression, columns, renormalise=True)
    assert np.expm1(renormalised) == pytest.approx(np.array([[60000 / 7, 0, 10000 / 7], [0, 0, 0]]), rel=1e-5)


def test_blocks_cover_all_cells_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifm_cli.celltype.alignment.BLOCK_VALUES", 8)
    expression = csr_matrix(np.arange(20, dtype=np.float32).reshape(5, 4))
    parts = list(aligned_blocks(expression, np.arange(4), renormalise=False))
    assert [part.start for part, _ in parts] == [0, 2, 4]
    assert np.array_equal(np.concatenate([block for _, block in parts]), expression.toarray())


def test_called_types_by_hand() -> None:
    """Odds 3 : 1, 1 : 1 below the threshold, and a void cell."""
    weights = np.log(np.array([[3.0, 1.0], [5.0, 5.0], [9.0, 1.0]]))
    types = call_types(("a", "b"), weights, np.array([False, False, True]), threshold=0.6)
    assert types.labels.tolist() == ["a", UNASSIGNED, UNASSIGNED]
    assert types.scores == pytest.approx([0.75, 0.5, 0])
    assert np.exp(types.log_probabilities) == pytest.approx(np.array([[0.75, 0.25, 0], [0.5, 0.5, 0], [0.5, 0.5, 0]]))
    assert types.confidence == pytest.approx([0.75, 0.5, 0.5])


def test_given_scores_replace_the_probability_of_the_likeliest_type() -> None:
    types = call_types(("a", "b"), np.zeros((2, 2)), np.zeros(2, dtype=bool), np.array([0.9, 0.2]), threshold=0.5)
    assert types.labels.tolist() == ["a", UNASSIGNED]
    assert types.take(np.array([1])).labels.tolist() == [UNASSIGNED]
    assert types.take(types.codes == 0).scores == pytest.approx([0.9])


# Annotation in memory ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("plugins")
def test_a_slide_in_memory_is_annotated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifm_cli.celltype.annotate._BLOCK_CELLS", 3)
    slide = slide_from_arrays("slide", np.zeros((4, 2)), CELLS.expression, SYMBOLS, 20.0)
    sizes = []
    types = annotate(slide, "constant:x", trust_pickle=True, advance=sizes.append)
    assert types.labels.tolist() == ["x"] * 4
    assert sizes == [3, 1]


def test_expression_without_a_slide_is_annotated(tmp_path: Path) -> None:
    table = tmp_path / "own.tsv"
    table.write_text("cell_type\tsymbol\nodd\tG1\nodd\tG2\neven\tG3\neven\tG4\n")
    expression = csr_matrix(np.repeat([[2.0, 2, 0, 0], [0, 0, 2, 2]], 20, axis=0).astype(np.float32))
    types = annotate_expression(UnlabelledCells("cells", expression, SYMBOLS), f"markers:{table}")
    assert types.labels.tolist() == ["odd"] * 20 + ["even"] * 20
    assert types.log_probabilities is not None
    assert types.log_probabilities.shape == (40, 3)


def test_messages_about_expression_name_the_cells() -> None:
    with pytest.raises(CifmError, match="slide biopsy: its panel marks 0 cell types"):
        annotate_expression(replace(CELLS, name="biopsy"), "markers")


def test_the_cells_that_an_annotator_is_fitted_to_are_sampled_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifm_cli.celltype.annotate.MAX_FITTED_CELLS", 5)
    rows = np.arange(10, 30)
    sampled = sample_rows(rows, 0)
    assert len(sampled) == 5
    assert (np.diff(sampled) > 0).all()
    assert np.isin(sampled, rows).all()
    assert np.array_equal(sampled, sample_rows(rows, 0))
    assert np.array_equal(sample_rows(rows[:5], 0), rows[:5])


@pytest.mark.parametrize("max_cells", [12, 30])
def test_an_annotator_is_fitted_to_the_same_cells_in_the_same_order_whatever_the_rows_of_the_file(
    monkeypatch: pytest.MonkeyPatch, max_cells: int
) -> None:
    generator = np.random.default_rng(0)
    counts = csr_matrix(generator.poisson(2.0, size=(30, 4)).astype(np.float32))
    xy_um, order = generator.uniform(0, 100, size=(30, 2)), generator.permutation(30)
    given: list[np.ndarray] = []
    monkeypatch.setattr("cifm_cli.celltype.annotate.MAX_FITTED_CELLS", max_cells)
    monkeypatch.setattr(
        "cifm_cli.celltype.annotate.open_annotator",
        lambda _name, cells, **_: given.append(cells.expression.toarray()),
    )
    for rows in (np.arange(30), order):
        slide = slide_from_arrays("slide", xy_um[rows], counts[rows], SYMBOLS, 20.0)
        open_for_slide("markers", slide, np.arange(30), seed=0)
    assert given[0].shape == (max_cells, 4)
    assert np.array_equal(given[0], given[1])
