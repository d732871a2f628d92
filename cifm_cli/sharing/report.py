"""The page and the figures of `cifm share`.

Letters: S samples, K clusters, T types.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from cifm_cli.report import matrix_plots, plots
from cifm_cli.report.html import Section, draw_image
from cifm_cli.report.table import Table
from cifm_cli.sharing.tables import enrichment_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from cifm_cli.sharing.share import SampleClusters, Sharing

TITLE = "Microenvironments that samples share"
_MAX_ROWS = 20  # of a table on the page; the CSV has all
_MAX_COMPOSITION_TYPES = 25
_LITTLE = 0.01  # fraction of the variance between samples below which there is nothing to explain
_WORDS = {
    "neighbours": "the cells with the most similar embeddings, wherever they are; not the cells nearby in the tissue",
    "expected": "fraction of the neighbours that perfect mixing of the samples would give",
    "log2 enrichment": "how often as many as expected, in doublings: 1 is twice as many, -1 half as many",
    "private": "a cluster whose neighbours are mostly in its own sample; shared: many are in others",
    "p": "probability of a result at least as extreme if there were no effect",
    "q": "p, corrected for asking many questions at once (Benjamini and Hochberg)",
    "recall": "fraction of the true nearest neighbours that an approximate search finds",
}
_EXPLAIN_TYPES = (
    f"The smallest q first, at most {_MAX_ROWS}; enrichment.csv has all. p: two-sided, from types that are shifted over the "
    "tissue; q: corrected over all samples, clusters and types (Benjamini and Hochberg)."
)


def figure_names(sharing: Sharing) -> list[str]:
    """Names of the figures, without their endings."""
    maps = [
        f"map_{part.name}"
        for part in sharing.cells.parts
        if part.sample in sharing.by_sample and part.xy_um is not None
    ]
    numbers = [f"clusters_{number}" for number in range(1, len(sharing.by_sample) + 1)]
    types = [
        f"types_{number}" for number, each in enumerate(sharing.by_sample.values(), 1) if each.enrichment is not None
    ]
    return ["matrix", "matrix_enrichment", *maps, *numbers, *types]


def draw_figure(sharing: Sharing, name: str) -> bytes:
    """Draw one figure.

    Args:
        sharing: The results.
        name: One of `figure_names`.

    Returns:
        A PNG, or an SVG within `canvas.vector_graphics`.
    """
    order = sample_order(sharing.fractions.log2_enrichment)
    samples = [sharing.samples[position] for position in order]
    if name == "matrix":
        values = sharing.fractions.matrix[np.ix_(order, order)]
        title = "where the neighbours of a sample are (a row is a sample)"
        # Most neighbours are in the same sample: with the diagonal in the scale, all other values would look alike.
        of_others = 100 * values[~np.eye(len(order), dtype=bool)]
        largest = float(of_others.max()) if len(of_others) and of_others.max() > 0 else None
        return matrix_plots.heat_map(
            100 * values, samples, samples, title, label="% of the neighbours", largest=largest
        )
    if name == "matrix_enrichment":
        values = sharing.fractions.log2_enrichment[np.ix_(order, order)]
        title = "where the neighbours of a sample are, over perfect mixing"
        return matrix_plots.heat_map(values, samples, samples, title, label="log2 enrichment", centred=True)
    kind, _, key = name.partition("_")
    if kind == "map":
        return _draw_map(sharing, key)
    each = list(sharing.by_sample.values())[int(key) - 1]
    rows = _cluster_names(each)
    if kind == "clusters":
        title = f"{each.sample}: neighbours of each cluster by sample"
        return matrix_plots.heat_map(100 * each.fractions[:, order], rows, samples, title, label="% of the neighbours")
    return _draw_types(sharing, each, rows)


def sample_order(log2_enrichment: NDArray[np.float64]) -> NDArray[np.int64]:
    """(S,) samples in an order in which those that share much are neighbours, by average linkage."""
    values = (log2_enrichment + log2_enrichment.T) / 2
    if len(values) < 3:
        return np.arange(len(values))
    distance = values.max() - values
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    return np.asarray(leaves_list(tree), dtype=np.int64)


def _draw_map(sharing: Sharing, name: str) -> bytes:
    """The clusters on the tissue; the most private one is grey if there are others."""
    number = next(position for position, part in enumerate(sharing.cells.parts) if part.name == name)
    part = sharing.cells.parts[number]
    if part.xy_um is None:
        raise ValueError(f"slide {name} has no positions")
    each = sharing.by_sample[part.sample]
    names = np.array(_cluster_names(each), dtype=object)
    clusters = clusters_of_part(sharing, number)
    title, coloured = f"{name}: one cluster", names.tolist()
    if len(names) > 1:
        title, coloured = f"{name}: clusters; grey: the most private, {names[0]}", coloured[1:]
    return plots.tissue_map(part.xy_um, names[clusters], title, order=coloured)


def clusters_of_part(sharing: Sharing, number: int) -> NDArray[np.int64]:
    """Clusters of the cells of one part, whose sample was clustered."""
    part = sharing.cells.parts[number]
    own = sharing.cells.codes == sharing.samples.index(part.sample)
    position = np.cumsum(own) - 1
    return np.asarray(sharing.by_sample[part.sample].clusters[position[sharing.cells.rows_of(number)]])


def _cluster_names(each: SampleClusters) -> list[str]:
    return [f"{cluster + 1} ({size:,} cells)" for cluster, size in enumerate(each.sizes)]


def _draw_types(sharing: Sharing, each: SampleClusters, rows: Sequence[str]) -> bytes:
    if each.enrichment is None:
        raise ValueError(f"sample {each.sample} has no types")
    counts = each.enrichment.counts
    chosen = np.argsort(-counts.sum(axis=0), kind="stable")[:_MAX_COMPOSITION_TYPES]
    chosen = chosen[counts.sum(axis=0)[chosen] > 0]
    composition = counts[:, chosen] / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [sharing.types[kind] for kind in chosen]
    title = f"{each.sample}: types of each cluster"
    if left_out := len(counts[0]) - len(chosen):
        title += f", without {left_out} rarer or absent ones"
    return matrix_plots.heat_map(100 * composition, rows, names, title, label="% of the cluster")


def answer(sharing: Sharing) -> str:
    """How much the samples share, in one sentence.

    Args:
        sharing: The results.

    Returns:
        The sentence.
    """
    matrix, expected = sharing.fractions.matrix, sharing.fractions.expected
    own, mixed = np.diag(matrix).mean(), np.diag(expected).mean()
    sentence = (
        f"On average, {1 - own:.0%} of the cells that are most similar to a cell are in other samples than its own; if the "
        f"{len(matrix)} samples were perfectly mixed, it would be {1 - mixed:.0%}"
    )
    if len(matrix) > 2:
        symmetric = (sharing.fractions.log2_enrichment + sharing.fractions.log2_enrichment.T) / 2
        np.fill_diagonal(symmetric, -np.inf)
        one, other = divmod(int(symmetric.argmax()), len(matrix))
        sentence += f". {sharing.samples[one]} and {sharing.samples[other]} share most"
    if sharing.group_test is not None:
        sentence += f"; samples of one group share more than others with p = {sharing.group_test.p:.3g}"
    return f"{sentence}."


def remarks(sharing: Sharing) -> list[str]:
    """Warnings, and what else limits the answer."""
    facts = sharing.facts
    between = facts["variance_between_samples"]
    doubt = f"{_between(sharing)}."
    if between >= _LITTLE:
        doubt = f"{_between(sharing)}; that may be biology, or a difference between platforms, panels or preparations (a batch effect)."
    sure = f"The search for similar cells finds {facts['search']['recall']:.1%} of the {facts['search']['k']} nearest ones."
    return [*(f"Warning: {warning}." for warning in sharing.warnings), doubt, sure]


def _between(sharing: Sharing) -> str:
    """How much samples differ in their means."""
    between = sharing.facts["variance_between_samples"]
    fraction = "Less than 1 %" if between < _LITTLE else f"{100 * between:.0f} %"
    return f"{fraction} of the variance of the embeddings lies between samples"


def sections(sharing: Sharing) -> list[Section]:
    """Assemble the sections of the HTML page.

    Args:
        sharing: The results.

    Returns:
        The sections, in order.
    """
    names = figure_names(sharing)
    table = enrichment_table(sharing)
    found = [
        Section(
            "Samples",
            explain(sharing),
            matrix_summary(sharing),
            [
                draw_image(
                    partial(draw_figure, sharing, "matrix"),
                    "Mean fraction of the neighbours by sample. The colours end at the largest value between two samples; samples "
                    "that share much stand side by side",
                ),
                draw_image(
                    partial(draw_figure, sharing, "matrix_enrichment"),
                    "The same, compared with perfect mixing: 0 as many as without any order, 1 twice as many",
                ),
            ],
        ),
    ]
    if sharing.group_test is not None:
        found.append(Section("Groups", explain_groups(sharing), _group_rows(sharing)))
    for number, (name, each) in enumerate(sharing.by_sample.items(), 1):
        chosen = [f"map_{part.name}" for part in sharing.cells.parts if part.sample == name and part.xy_um is not None]
        chosen += [f"clusters_{number}", f"types_{number}"]
        captions = {"map": "Clusters on the tissue", "clusters": "Neighbours by sample", "types": "Types"}
        shown = [
            draw_image(partial(draw_figure, sharing, key), f"{captions[key.partition('_')[0]]}, sample {name}")
            for key in chosen
            if key in names
        ]
        found.append(Section(f"Sample {name}", _explain_clusters(each), images=shown))
        rows = _enrichment_rows(table[table["sample"] == name])
        if rows is not None:
            found.append(Section(f"Types in the clusters of {name}", _EXPLAIN_TYPES, rows))
    words = Table(["word", "meaning"], list(map(list, _WORDS.items())))
    return [*found, Section("What the words mean", table=words, folded=True)]


def matrix_summary(sharing: Sharing) -> Table:
    """What each sample shares: own fraction, expected, and the other sample with the largest enrichment."""
    fractions = sharing.fractions
    others = fractions.log2_enrichment.copy()
    np.fill_diagonal(others, -np.inf)
    rows = []
    for position, name in enumerate(sharing.samples):
        best = int(others[position].argmax())
        rows.append(
            [
                name,
                f"{sharing.cells.sizes[position]:,}",
                f"{100 * fractions.matrix[position, position]:.1f}",
                f"{100 * fractions.expected[position, position]:.1f}",
                sharing.samples[best],
                f"{100 * fractions.matrix[position, best]:.1f}",
                f"{100 * fractions.expected[position, best]:.1f}",
            ]
        )
    columns = ["sample", "cells", "own sample, %", "expected, %", "shares most with", "%", "expected, %"]
    return Table(columns, rows)


def explain(sharing: Sharing) -> str:
    """Describe in a few sentences what was computed.

    Args:
        sharing: The results.

    Returns:
        The sentences.
    """
    facts = sharing.facts
    search = facts["search"]
    cells = f"{sharing.cells.num_cells:,} cells of {len(sharing.samples)} samples"
    how = f"search: {search['method']}, recall {search['recall']:.3f}"
    notes = [
        f"{cells}, {search['k']} nearest neighbours of each; {how}.",
        "Expected is what perfect mixing of the samples would give.",
    ]
    if facts["balance"]:
        notes.append(
            f"The samples differ in size: neighbours are searched among {search['database']:,} cells, as many of each sample."
        )
    between = _between(sharing)
    if facts["center"] == "sample":
        used = sum(match["used"] for match in facts["shifts"])
        notes.append(
            f"{between}; no shift was found under which microenvironments of two samples match better than by chance, and "
            "none was removed."
            if not used
            else f"{between}; shifts were estimated from {used} of {len(facts['shifts'])} pairs of samples, whose "
            "microenvironments match under one shift better than by chance, and removed."
        )
    else:
        notes.append(f"{between}, which may be biology or a batch effect; --center sample removes shifts.")
    return " ".join(notes)


def explain_groups(sharing: Sharing) -> str:
    """Describe the comparison of groups; empty without groups."""
    test = sharing.group_test
    if test is None:
        return ""
    number = f"{test.permutations:,}"
    how = f"all {number} assignments" if test.exact else f"{number} permutations"
    return (
        f"Mean log2 enrichment of pairs of samples within a group {test.within:.2f}, of different groups {test.between:.2f}; "
        f"p = {test.p:.3g} for more sharing within groups ({how} of the samples to the groups, "
        f"smallest possible p {test.smallest_p:.2g}). q: corrected for the number of group pairs (Benjamini and Hochberg)."
    )


def _group_rows(sharing: Sharing) -> Table:
    pairs = () if sharing.group_test is None else sharing.group_test.pairs
    rows = [
        [
            f"{pair.group} and {pair.other}" if pair.group != pair.other else f"within {pair.group}",
            str(pair.pairs),
            f"{pair.log2_enrichment:.2f}",
            f"{pair.difference:+.2f}",
            f"{pair.p:.3g}",
            f"{pair.q:.3g}",
        ]
        for pair in pairs
    ]
    return Table(["groups", "pairs of samples", "log2 enrichment", "minus other pairs", "p", "q"], rows)


def _explain_clusters(each: SampleClusters) -> str:
    if len(each.sizes) == 1:
        return "One cluster: the cells do not fall into groups with neighbours in different samples."
    return "Clusters of the fractions of neighbours by sample, the most private first."


def _enrichment_rows(table: pd.DataFrame) -> Table | None:
    """The types of the clusters, smallest q first."""
    tested = table.dropna(subset=["q"])
    if tested.empty:
        return None
    strength = tested["log2_enrichment"].abs()
    shown = tested.assign(strength=strength).sort_values(["q", "strength"], ascending=[True, False], kind="stable")
    rows = [
        [
            f"{row['cluster']}: {row['type']}",
            f"{row['cells']:,}",
            f"{100 * row['fraction']:.1f}",
            f"{row['log2_enrichment']:+.2f}",
            f"{row['p']:.3g}",
            f"{row['q']:.3g}",
        ]
        for row in shown.head(_MAX_ROWS).to_dict("records")
    ]
    return Table(["cluster: type", "cells", "% of the cluster", "log2 enrichment", "p", "q"], rows)
