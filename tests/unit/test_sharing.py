"""Parts of `cifm share`: search, fractions, shifts, clusters, enrichment and groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from sharing_samples import NAMES, plant_samples
from sklearn.metrics import adjusted_rand_score

from cifm_cli.errors import CifmError
from cifm_cli.report import canvas
from cifm_cli.sharing import approximate, exact, report
from cifm_cli.sharing.cells import Part, collect_cells, draw_balanced
from cifm_cli.sharing.clusters import cluster_fractions
from cifm_cli.sharing.enrichment import TypedCells, measure_enrichment
from cifm_cli.sharing.fractions import compute_fractions, expected_fractions
from cifm_cli.sharing.groups import compare_groups
from cifm_cli.sharing.neighbours import find_neighbours
from cifm_cli.sharing.share import ShareConfig, Sharing, share_cells
from cifm_cli.sharing.tables import enrichment_table, matrix_table

pytestmark = pytest.mark.figures

FAST = ShareConfig(k=40, permutations=19)


def make_cells(sizes: list[int], features: int = 5, seed: int = 0):
    generator = np.random.default_rng(seed)
    parts = [
        Part(f"s{i}", f"s{i}", generator.normal(size=(size, features)).astype(np.float32))
        for i, size in enumerate(sizes)
    ]
    return collect_cells(parts)


def sorted_neighbours(cells, database, k, search="exact") -> np.ndarray:
    found = np.full((cells.num_cells, k), -1)
    for rows, ids in find_neighbours(cells, database, k, search, 0).blocks:
        found[rows] = np.sort(ids, axis=1)
    return found


@settings(max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=4), st.integers(1, 6), st.integers(0, 99))
def test_exact_neighbours_are_those_of_all_distances(sizes: list[int], k: int, seed: int) -> None:
    cells = make_cells(sizes, seed=seed)
    k = min(k, cells.num_cells - 1)
    values = cells.read(np.arange(cells.num_cells)).astype(np.float64)
    distance = ((values[:, None] - values[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distance, np.inf)
    nearest = np.sort(np.argsort(distance, axis=1)[:, :k], axis=1)
    assert (sorted_neighbours(cells, np.arange(cells.num_cells), k) == nearest).all()


def test_equal_cells_are_neighbours_and_a_cell_is_not_its_own() -> None:
    # Four equal cells in two samples: of equally far cells, those with the smallest rows are neighbours.
    ones = np.ones((2, 3), dtype=np.float32)
    cells = collect_cells([Part("a", "a", ones), Part("b", "b", ones)])
    assert sorted_neighbours(cells, np.arange(4), 2).tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]


def test_neighbours_do_not_depend_on_blocks_or_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = make_cells([300, 200], features=16)
    database = np.arange(cells.num_cells)
    expected = sorted_neighbours(cells, database, 20)
    monkeypatch.setattr(exact, "_QUERIES", 37)
    monkeypatch.setattr(exact, "_DATABASE", 64)
    monkeypatch.setattr(exact, "num_threads", lambda: 3)
    assert (sorted_neighbours(cells, database, 20) == expected).all()


def test_an_approximate_search_measures_its_recall_and_does_not_depend_on_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("faiss")
    cells = make_cells([2_000, 1_000], features=8)
    database = np.arange(cells.num_cells)
    search = find_neighbours(cells, database, 20, "approximate", 0)
    assert 0.95 <= search.facts["recall"] <= 1.0
    assert 1 <= search.facts["searched_lists"] < search.facts["lists"]
    one = sorted_neighbours(cells, database, 20, "approximate")
    monkeypatch.setattr(approximate, "num_threads", lambda: 2)
    assert (sorted_neighbours(cells, database, 20, "approximate") == one).all()
    assert (one != np.arange(cells.num_cells)[:, None]).all()
    right = sorted_neighbours(cells, database, 20)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(right, one, strict=True)])
    # Measured on 1,000 of the 3,000 cells
    assert abs(recall - search.facts["recall"]) < 0.02


def test_cells_without_structure_are_searched_by_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    cells = make_cells([1_500, 1_000], features=32)
    monkeypatch.setattr(approximate, "_SCANNED_CELLS", 20)
    database = np.arange(0, 2_500, 2)
    search = find_neighbours(cells, database, 20, "approximate", 0)
    assert (search.facts["index"], search.facts["candidates"] >= 42) == ("codes", True)
    assert search.facts["recall"] >= 0.95
    one = sorted_neighbours(cells, database, 20, "approximate")
    monkeypatch.setattr(approximate, "num_threads", lambda: 2)
    monkeypatch.setattr(approximate, "_QUERIES", 333)
    assert (sorted_neighbours(cells, database, 20, "approximate") == one).all()
    right = sorted_neighbours(cells, database, 20)
    assert abs(np.mean([np.isin(a, b).mean() for a, b in zip(right, one, strict=True)]) - search.facts["recall"]) < 0.02
    monkeypatch.setattr(approximate, "_MAX_CANDIDATES", 1)
    monkeypatch.setattr(approximate, "MIN_RECALL", 1.0)
    assert find_neighbours(cells, database, 20, "approximate", 0).facts["method"] == "exact"


def test_lists_with_too_few_cells_are_extended() -> None:
    pytest.importorskip("faiss")
    cells = make_cells([300, 200], features=8)
    found = sorted_neighbours(cells, np.arange(500), 150, "approximate")
    assert (found >= 0).all()
    assert all(len(np.unique(row)) == 150 for row in found)


def test_without_faiss_many_cells_are_searched_exactly(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr("cifm_cli.sharing.neighbours.EXACT_CELLS", 100)
    monkeypatch.setattr("cifm_cli.sharing.neighbours.has_faiss", lambda: False)
    cells = make_cells([100, 50])
    assert find_neighbours(cells, np.arange(150), 5, "auto", 0).facts["method"] == "exact"
    assert 'pip install ".[analysis]"' in caplog.text
    monkeypatch.setattr("cifm_cli.sharing.approximate.has_faiss", lambda: False)
    with pytest.raises(CifmError, match="needs faiss"):
        find_neighbours(cells, np.arange(150), 5, "approximate", 0)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5), st.integers(0, 99))
def test_expected_fractions_sum_to_one_and_are_those_of_random_neighbours(sizes: list[int], seed: int) -> None:
    codes = np.repeat(np.arange(len(sizes)), sizes)
    database = np.flatnonzero(np.random.default_rng(seed).random(len(codes)) < 0.7)
    if len(database) < 2:
        return
    expected = expected_fractions(codes, database, len(sizes))
    np.testing.assert_allclose(expected.sum(axis=1), 1.0)
    by_hand = np.zeros((len(sizes),) * 2)
    for cell, code in enumerate(codes):
        others = codes[database[database != cell]]
        by_hand[code] += np.bincount(others, minlength=len(sizes)) / len(others)
    np.testing.assert_allclose(expected, by_hand / np.array(sizes)[:, None])


def test_mixed_samples_share_as_much_as_expected_and_as_permuted() -> None:
    cells = make_cells([200, 400], features=6)
    database = np.arange(600)
    fractions = compute_fractions(cells, database, find_neighbours(cells, database, 30, "exact", 0), 39, 0)
    np.testing.assert_allclose(fractions.cells.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(fractions.matrix, fractions.expected, atol=0.03)
    np.testing.assert_allclose(fractions.mixed.mean(axis=0), fractions.expected, atol=0.005)
    assert (
        (fractions.matrix > fractions.mixed.min(axis=0) - 0.02)
        & (fractions.matrix < fractions.mixed.max(axis=0) + 0.02)
    ).all()


def test_balanced_draws_have_equal_sizes_and_compensate_for_them() -> None:
    cells = make_cells([100, 500], features=6)
    database = draw_balanced(cells, 0)
    assert np.bincount(cells.codes[database]).tolist() == [100, 100]
    fractions = compute_fractions(cells, database, find_neighbours(cells, database, 20, "exact", 0), 3, 0)
    np.testing.assert_allclose(fractions.matrix, 0.5, atol=0.04)


@pytest.fixture(scope="module")
def planted() -> tuple[Sharing, list[np.ndarray]]:
    parts, niches = plant_samples(shared=True)
    return share_cells(parts, FAST), niches


def test_planted_niches_are_recovered_under_a_batch_effect(planted: tuple[Sharing, list[np.ndarray]]) -> None:
    sharing, niches = planted
    for name, niche in zip(NAMES, niches, strict=True):
        assert adjusted_rand_score(niche, sharing.by_sample[name].clusters) > 0.9, name
    # 40 % of the neighbours are private, 20 % half in the partner, 40 % a quarter in each.
    pair = np.array([[0.6, 0.2], [0.2, 0.6]])
    expected = np.block([[pair, np.full((2, 2), 0.1)], [np.full((2, 2), 0.1), pair]])
    np.testing.assert_allclose(sharing.fractions.matrix, expected, atol=0.05)
    assert sharing.facts["variance_between_samples"] > 0.05
    private = sharing.by_sample["A"].fractions[0]
    assert private[0] > 0.98


def test_without_centring_the_batch_effect_hides_them() -> None:
    parts, _ = plant_samples(shared=True)
    sharing = share_cells(parts, replace(FAST, center="none"))
    assert (np.diag(sharing.fractions.matrix) > 0.9).all()
    assert sharing.facts["shifts"] == []


@pytest.mark.parametrize(("batch", "center"), [(1.0, "sample"), (0.0, "none")])
def test_samples_without_common_niches_share_nothing(batch: float, center) -> None:
    parts, _ = plant_samples(shared=False, batch=batch)
    sharing = share_cells(parts, replace(FAST, center=center))
    assert (np.diag(sharing.fractions.matrix) > 0.98).all()
    assert {len(each.sizes) for each in sharing.by_sample.values()} == {1}
    assert not any(match["used"] for match in sharing.facts["shifts"])


def test_a_shift_of_a_sample_changes_nothing(planted: tuple[Sharing, list[np.ndarray]]) -> None:
    parts, _ = plant_samples(shared=True)
    moved = [replace(part, embedding=part.embedding + np.float32(5 * number)) for number, part in enumerate(parts)]
    sharing = share_cells(moved, FAST)
    np.testing.assert_allclose(sharing.fractions.cells, planted[0].fractions.cells, atol=0.1)
    np.testing.assert_allclose(sharing.fractions.matrix, planted[0].fractions.matrix, atol=0.002)


def test_the_same_seed_gives_the_same_result(planted: tuple[Sharing, list[np.ndarray]]) -> None:
    again = share_cells(plant_samples(shared=True)[0], FAST)
    assert (again.fractions.cells == planted[0].fractions.cells).all()
    assert (again.fractions.mixed == planted[0].fractions.mixed).all()
    for name in NAMES:
        assert (again.by_sample[name].clusters == planted[0].by_sample[name].clusters).all()


def test_clusters_are_sorted_by_their_own_fraction() -> None:
    own = np.repeat([0.2, 0.9, 0.5], [30, 50, 20])
    fractions = np.stack([own, 1 - own], axis=1).astype(np.float32)
    clusters = cluster_fractions(fractions, 0, 3, 0)
    assert [fractions[clusters == cluster, 0].mean().round(1) for cluster in range(3)] == pytest.approx([0.9, 0.5, 0.2])
    assert (cluster_fractions(fractions, 0, None, 0) == clusters).all()
    # Of two different vectors there are no more than two clusters.
    assert set(cluster_fractions(fractions[:80], 0, 6, 0).tolist()) == {0, 1}


def smooth_field(generator: np.random.Generator, xy_um: np.ndarray, waves: int = 6) -> np.ndarray:
    """A smooth random field on a torus of 1000 um."""
    frequency = generator.integers(-2, 3, size=(waves, 2))
    return np.cos(2 * np.pi * (xy_um / 1000) @ frequency.T + 7 * generator.random(waves)).sum(axis=1)


def test_enrichment_of_smooth_patterns_by_chance_is_not_significant() -> None:
    generator = np.random.default_rng(0)
    p_values, naive = [], []
    for _ in range(40):
        xy_um = generator.random((250, 2)) * 1000
        one, other = (smooth_field(generator, xy_um) > 0 for _ in range(2))
        slide = TypedCells(xy_um, one.astype(np.int64), other.astype(np.int64))
        p_values.append(measure_enrichment([slide], 2, 2, 59, 0).p_values[0, 0])
        shuffled = [np.mean(generator.permutation(other)[one]) for _ in range(59)]
        naive.append(np.mean(np.abs(np.array(shuffled) - other.mean()) >= abs(other[one].mean() - other.mean())))
    assert np.mean(np.array(p_values) <= 0.05) <= 0.15
    assert np.mean(np.array(naive) <= 0.05) > 0.3  # as if cells were independent


def test_a_planted_type_is_enriched_and_absent_types_are_finite() -> None:
    generator = np.random.default_rng(1)
    xy_um = generator.random((600, 2)) * 1000
    clusters = (smooth_field(generator, xy_um, 12) > 1).astype(np.int64)
    types = np.where(clusters == 1, 0, generator.integers(1, 3, size=600))
    types[:10] = -1
    found = measure_enrichment([TypedCells(xy_um, clusters, types)], 2, 4, 99, 0)
    assert found.counts.sum() == 590
    assert found.p_values[1, 0] <= 0.05
    assert found.log2_enrichment[1, 0] > 1
    assert np.isfinite(found.log2_enrichment).all()
    assert (found.p_values[:, 3] == 1).all()


def test_groups_by_hand() -> None:
    # Six samples, three of each group; sharing within groups is 1 above that between groups.
    groups = ["x", "x", "x", "y", "y", "y"]
    values = np.array([[1.0 if a == b else 0.0 for b in groups] for a in groups])
    test = compare_groups(values, groups, 0)
    assert (test.within, test.between, test.exact, test.permutations) == (1.0, 0.0, True, 20)
    assert test.p == test.smallest_p == pytest.approx(2 / 20)  # the same division with the names exchanged
    assert [(pair.group, pair.other, pair.pairs) for pair in test.pairs] == [
        ("x", "x", 3),
        ("x", "y", 9),
        ("y", "y", 3),
    ]
    np.testing.assert_allclose(
        [pair.q for pair in test.pairs], false_discovery_control([pair.p for pair in test.pairs])
    )


def test_groups_without_a_difference_are_not_significant() -> None:
    generator = np.random.default_rng(0)
    p_values = [compare_groups(generator.normal(size=(8, 8)), list("xxxxyyyy"), 0).p for _ in range(60)]
    assert 0.3 < np.mean(p_values) < 0.7
    many = compare_groups(generator.normal(size=(20, 20)), ["x", "y"] * 10, 0)
    assert (many.exact, many.permutations) == (False, 9_999)


@pytest.mark.parametrize("groups", [["x", "x", "x"], ["x", "y", "z"]])
def test_groups_that_cannot_be_compared_are_refused(groups: list[str]) -> None:
    with pytest.raises(CifmError, match="groups of samples"):
        compare_groups(np.zeros((3, 3)), groups, 0)


def test_warnings_name_small_groups_platforms_repeats_and_hubs() -> None:
    parts, _ = plant_samples(shared=True, cells=150)
    grouped = [
        replace(part, group="x" if part.sample in "AB" else "y", platform="p" if part.sample in "AB" else "q")
        for part in parts
    ]
    grouped[1] = replace(grouped[1], embedding=grouped[0].embedding)
    sharing = share_cells(grouped, replace(FAST, center="none"))
    text = "\n".join(sharing.warnings)
    assert "fewer than 5 samples in x, y: samples, not cells, are the evidence" in text
    assert "no common platform of x and y" in text
    assert "300 cells of A, B have exactly the embedding" in text
    generator = np.random.default_rng(0)
    narrow = [
        Part(name, name, (scale * generator.normal(size=(200, 30))).astype(np.float32))
        for name, scale in (("wide", 1.0), ("other", 1.0), ("narrow", 0.6))
    ]
    assert [warning[:13] for warning in share_cells(narrow, replace(FAST, center="none")).warnings] == ["sample narrow"]


def test_the_page_explains_a_variance_between_samples_only_where_there_is_one(
    planted: tuple[Sharing, list[np.ndarray]],
) -> None:
    for between, expected, is_explained in ((0.004, "Less than 1 % of", False), (0.2, "20 % of", True)):
        sharing = replace(planted[0], facts={**planted[0].facts, "variance_between_samples": between})
        remark = next(text for text in report.remarks(sharing) if "variance" in text)
        assert remark.startswith(expected)
        assert remark.endswith(".")
        assert ("batch effect" in remark) == is_explained
    own = np.diag(planted[0].fractions.matrix).mean()
    assert f"On average, {1 - own:.0%} of the cells" in report.answer(planted[0])


def test_figures_are_png_or_svg_and_the_same_each_time(planted: tuple[Sharing, list[np.ndarray]]) -> None:
    assert report.figure_names(planted[0])[:3] == ["matrix", "matrix_enrichment", "map_A"]
    for name in ("matrix", "map_A", "clusters_1"):
        assert report.draw_figure(planted[0], name).startswith(b"\x89PNG")
    with canvas.vector_graphics():
        one, two = (report.draw_figure(planted[0], "matrix") for _ in range(2))
    assert one == two
    assert b"<svg" in one[:2_000]
    assert report.draw_figure(planted[0], "matrix").startswith(b"\x89PNG")


def test_colours_of_the_matrix_tell_the_other_samples_apart(
    planted: tuple[Sharing, list[np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The diagonal is far larger than all else."""
    ends = []
    monkeypatch.setattr(report.matrix_plots, "heat_map", lambda *_, largest=None, **__: ends.append(largest) or b"")
    report.draw_figure(planted[0], "matrix")
    matrix = planted[0].fractions.matrix
    assert ends == [pytest.approx(100 * matrix[~np.eye(len(matrix), dtype=bool)].max())]
    assert ends[0] < 100 * np.diag(matrix).max()


def test_tables_have_a_row_for_each_pair_and_correct_for_many_tests(planted: tuple[Sharing, list[np.ndarray]]) -> None:
    table = matrix_table(planted[0])
    assert len(table) == 16
    assert table["p"].isna().sum() == 4
    np.testing.assert_allclose(table.groupby("sample")["fraction"].sum(), 1.0)
    assert enrichment_table(planted[0]).empty
    assert list(enrichment_table(planted[0]).columns)[-2:] == ["p", "q"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 2_000}, "too few for 2000 neighbours"),
        ({"of": ("Z",)}, "no such sample"),
        ({"k": 200, "balance": True}, "fewer than 2 x 200 neighbours"),
    ],
)
def test_settings_that_cannot_be_used(change, message: str) -> None:
    parts, _ = plant_samples(shared=True)
    with pytest.raises(CifmError, match=message):
        share_cells(parts, replace(FAST, center="none", **change))


def test_one_sample_is_refused() -> None:
    parts, _ = plant_samples(shared=True)
    with pytest.raises(CifmError, match="one sample: A"):
        collect_cells(parts[:1])
    with pytest.raises(CifmError, match="embeddings of 3 and 32 features"):
        collect_cells([parts[0], replace(parts[1], embedding=parts[1].embedding[:, :3])])


def test_a_few_outliers_are_no_cluster_of_their_own() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 1_000)
    own = np.where(np.arange(1_000) < 10, 0.1, 0.9) + noise * (np.arange(1_000) >= 10)
    fractions = np.stack([own, 1 - own], axis=1).astype(np.float32)
    assert set(cluster_fractions(fractions, 0, None, 0).tolist()) == {0}
    assert np.bincount(cluster_fractions(fractions, 0, 2, 0)).tolist() == [990, 10], "as asked for"
