"""Joint analysis of embeddings: graph, clusters, cells outside of the sample, composition of clusters."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from cifm_cli.embedding import embed_report, embed_tables
from cifm_cli.embedding.analysis import AnalysisConfig, analyse, most_frequent
from cifm_cli.embedding.embed_report import Result
from cifm_cli.embedding.embed_tables import NO_TYPE, Categories
from cifm_cli.embedding.joint import JointCells
from cifm_cli.embedding.nearest_cells import NearestCells
from cifm_cli.errors import CifmError
from cifm_cli.report.embedding_plots import draw_composition, draw_embedding, shown_categories
from cifm_cli.report.palette import CATEGORY_COLOURS, OTHERS, UNKNOWN, colour_categories

pytestmark = pytest.mark.figures


def draw_blobs(num_cells: int, seed: int, num_blobs: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """(N, 8) embeddings of cells in groups far from each other, which are the same for all seeds, and their groups."""
    centres = 8 * np.random.default_rng(99).normal(size=(num_blobs, 8))
    generator = np.random.default_rng(seed)
    groups = generator.integers(num_blobs, size=num_cells)
    return (centres[groups] + generator.normal(size=(num_cells, 8))).astype(np.float32), groups


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4), data=st.data())
@settings(max_examples=30, deadline=None)
def test_rows_of_several_slides_are_read_as_one_matrix(sizes: list[int], data: st.DataObject) -> None:
    matrices = [np.random.default_rng(size).normal(size=(size, 3)).astype(np.float32) for size in sizes]
    cells = JointCells([str(number) for number in range(len(sizes))], matrices)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, sum(sizes) - 1)))), dtype=np.int64)
    assert np.array_equal(cells.read(rows), np.concatenate(matrices)[rows])
    assert np.bincount(cells.slide_numbers()).tolist() == sizes
    sample = cells.sample(5, seed=1)
    assert len(set(sample.tolist())) == min(5, sum(sizes))
    assert np.array_equal(sample, cells.sample(5, seed=1))


@given(rows=st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=10))
def test_the_most_frequent_label_is_found(rows: list[list[int]]) -> None:
    # `Counter` keeps the order of the first occurrence, which is that of the distance.
    expected = [Counter(row).most_common(1)[0][0] for row in rows]
    assert most_frequent(np.array(rows, dtype=np.int32)).tolist() == expected


@pytest.mark.parametrize("copies", [1, 12])
def test_the_graph_holds_the_nearest_other_cells_also_where_cells_are_equal(copies: int) -> None:
    values = np.repeat(draw_blobs(30, 0)[0], copies, axis=0)
    graph = NearestCells(values).graph(6)
    assert (np.diff(graph.indptr) == 6).all()
    assert (graph.diagonal() == 0).all()
    assert not (graph.indices.reshape(-1, 6) == np.arange(len(values))[:, None]).any()
    distances = np.linalg.norm(values[:, None].astype(float) - values[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = np.sort(distances, axis=1)[:, :6]
    assert np.sort(graph.data.reshape(-1, 6), axis=1) == pytest.approx(nearest, abs=2e-2)


def test_groups_of_several_slides_are_found_together_and_by_a_sample() -> None:
    import scanpy as sc

    parts = [draw_blobs(120, seed) for seed in (1, 2)]
    cells, groups = JointCells(["a", "b"], [part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    config = AnalysisConfig(clusters=True, neighbors=True, resolution=0.2)
    whole = analyse(cells, config)
    assert adjusted_rand_score(groups, whole.clusters) == 1
    assert (np.diff(np.bincount(whole.clusters)) <= 0).all(), "clusters are not numbered by size"
    assert whole.graph is not None
    assert whole.graph.distances.shape == (240, 240)
    joint = sc.AnnData(obsm={"X": cells.read(np.arange(240))}, shape=(240, 0))
    sc.pp.neighbors(joint, use_rep="X", random_state=0)
    assert abs(whole.graph.connectivities - joint.obsp["connectivities"]).max() < 1e-5
    assert abs(whole.graph.distances - joint.obsp["distances"]).max() < 1e-5
    assert whole.umap is None
    sampled = analyse(cells, AnalysisConfig(clusters=True, neighbors=True, resolution=0.2, max_cells=100))
    assert (sampled.num_fitted, sampled.graph) == (100, None)
    assert adjusted_rand_score(groups, sampled.clusters) == 1


def test_too_few_cells_are_an_error() -> None:
    with pytest.raises(CifmError, match="19 cells: too few"):
        analyse(JointCells(["a"], [np.zeros((19, 2), np.float32)]), AnalysisConfig(clusters=True))


@given(data=st.data())
@settings(max_examples=30)
def test_the_composition_counts_every_cell_once(data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40))
    clusters, codes = (np.array(column, dtype=np.int32) for column in zip(*pairs, strict=True))
    categories = Categories(("a", "b", "c"), codes)
    counts = embed_tables.count_cells(clusters, categories)
    table = embed_tables.composition_table(counts, categories.names, "slide")
    assert table["cells"].sum() == len(pairs)
    for row in table.itertuples():
        assert row.cells == pairs.count((row.cluster, "abc".index(row.slide)))
    present = table.groupby("cluster")["cells"].transform("sum") > 0
    assert table[present].groupby("cluster")["fraction_of_cluster"].sum().to_numpy() == pytest.approx(1)


def test_types_are_sorted_by_frequency_and_missing_ones_are_last() -> None:
    columns = [pd.Series(["b", None, "a", "b"]), pd.Series([2.0, np.nan, 2.0, 1.0]), pd.Series([None, "nan"])]
    types = embed_tables.categorise(columns)
    assert types.names == ("2", "b", "1", "a", NO_TYPE)
    assert types.of_cells().tolist() == ["b", NO_TYPE, "a", "b", "2", NO_TYPE, "2", "1", NO_TYPE, NO_TYPE]


def test_the_share_of_neighbours_on_other_slides_is_measured() -> None:
    parts = [draw_blobs(60, seed, 1)[0] for seed in (1, 2)]
    slides = Categories(("a", "b"), np.repeat([0, 1], 60).astype(np.int32))
    mixed = NearestCells(np.concatenate(parts)).graph(10)
    apart = NearestCells(np.concatenate([parts[0], parts[1] + 100])).graph(10)
    assert embed_tables.neighbours_elsewhere(mixed, slides).mean() == pytest.approx(0.5, abs=0.05)
    assert embed_tables.neighbours_elsewhere(apart, slides).tolist() == [0, 0]


def test_legends_have_one_entry_for_the_categories_without_a_colour() -> None:
    names = [str(number) for number in range(20)]
    entries = shown_categories(names, colour_categories(names), NO_TYPE)
    assert list(entries) == [*names[:12], "12 to 19", NO_TYPE]
    assert list(entries.values()) == [*CATEGORY_COLOURS, OTHERS, UNKNOWN]


def test_a_legend_names_no_range_that_contains_coloured_numbers() -> None:
    names = ["3", "16", *map(str, range(4, 16))]  # by frequency, as the clusters of a download are as types
    entries = shown_categories(names, dict.fromkeys([*names[:5], "12"], "#0072B2"))
    assert list(entries)[-1] == "8 others"
    assert list(shown_categories(names, dict.fromkeys(names[:7], "#0072B2")))[-1] == "9 to 15"


def one_page(label: str, *, own_centres: bool = False) -> Result:
    """The result for 40 cells of two slides with a column of types."""
    parts = [draw_blobs(20, seed)[0] for seed in (1, 2)]
    analysis = analyse(JointCells(["a", "b"], parts), AnalysisConfig(umap=True, clusters=True, k=5))
    slides = Categories(("a", "b"), np.repeat([0, 1], 20).astype(np.int32))
    xy_um = [np.zeros((20, 2))] * 2
    return Result(slides, "X_cifm", analysis, AnalysisConfig(), xy_um, label, slides, own_centres)


def test_figures_of_types_are_told_apart_from_those_of_clusters() -> None:
    for label in ("cluster", "slide", "cell_type"):
        drawn = [figure for section in embed_report.figures(one_page(label)).values() for figure in section]
        captions = [figure.caption for figure in drawn]
        assert len(set(captions)) == len(captions)


def test_the_page_says_that_slides_were_centred_on_their_own_means() -> None:
    texts = ["\n".join(embed_report.remarks(one_page("x", own_centres=own))) for own in (True, False)]
    assert ["--adapt none" in text for text in texts] == [True, False]


@pytest.mark.parametrize("image_format", ["png", "svg"])
def test_equal_figures_have_equal_bytes(image_format: str) -> None:
    entries = {"a": "#0072B2", "a much longer name of a slide": "#E69F00"}
    names = np.array(["a", "a much longer name of a slide"] * 10, dtype=object)
    places = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    fractions = np.array([[0.2, 0.8], [1.0, 0.0]])
    for draw in (
        lambda: draw_embedding(places, names, entries, "UMAP", numbers={"0": places[0]}, image_format=image_format),
        lambda: draw_composition(fractions, ["0", "1"], entries, "Composition", image_format=image_format),
    ):
        image = draw()
        assert image == draw()
        assert image[:5] in (b"\x89PNG\r", b"<?xml")
