"""The page of a joint analysis of embedded slides, and its figures and tables.

Letters: S slides, N cells of all slides, C clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.celltype.taxonomy import UNASSIGNED
from cifm_cli.embedding import embed_tables
from cifm_cli.embedding.embed_tables import NO_TYPE, Categories
from cifm_cli.report.cell_map import CellMap
from cifm_cli.report.embedding_plots import draw_composition, draw_embedding, others_name, shown_categories
from cifm_cli.report.html import Image, Section
from cifm_cli.report.palette import CATEGORY_COLOURS, CLUSTER_COLOURS, UNKNOWN, colour_categories, colour_clusters
from cifm_cli.report.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from cifm_cli.embedding.analysis import Analysis, AnalysisConfig
    from cifm_cli.report.canvas import ImageFormat

    Draw = Callable[[ImageFormat], bytes]

ALMOST_ALL = 0.9  # fraction of the cells of a cluster from which on it is of one slide
_TYPES_SHOWN = 3  # of each cluster in the table
_CLUSTERS_SHOWN = 30  # in the table and the charts of the composition
_UNTYPED = (UNASSIGNED, NO_TYPE)  # pale, and without one of the colours


@dataclass(frozen=True)
class Figure:
    """A figure of the page, which is also written as PNG and SVG."""

    name: str  # of its files, without suffix
    caption: str
    draw: Draw


@dataclass(frozen=True)
class Result:
    """A joint analysis, and what is known of the cells besides."""

    slides: Categories  # the slide of each cell
    slot: str  # name in obsm of the analysed embedding
    analysis: Analysis
    config: AnalysisConfig
    xy_um: Sequence[NDArray[np.float64]]  # (n, 2) positions of the cells of each of S slides
    label: str | None = None  # column of obs with types
    types: Categories | None = None  # the type of each cell
    own_centres: bool = False  # whether each slide was centred on its own mean expression

    @property
    def num_cells(self) -> int:
        """N."""
        return len(self.slides.codes)

    @property
    def type_title(self) -> str:
        """What titles call the column of types, which may be named as the slides and clusters of the page."""
        return f"column {self.label} of obs" if self.label in {"slide", "cluster"} else str(self.label)

    @property
    def cluster_names(self) -> list[str]:
        """C names: the numbers of the clusters as text."""
        return [str(number) for number in range(self.analysis.num_clusters)]


def cluster_colours(num_clusters: int) -> list[str]:
    """C colours for scanpy, those of the page; none if some clusters have no colour of their own."""
    return list(CLUSTER_COLOURS[:num_clusters]) if num_clusters <= len(CLUSTER_COLOURS) else []


def answer(result: Result) -> str:
    """The result in one sentence."""
    analysis, names = result.analysis, result.slides.names
    where = f"{result.num_cells:,} cells of {names[0] if len(names) == 1 else f'{len(names)} slides'}"
    if analysis.clusters is not None:
        found = f"{analysis.num_clusters} {'cluster' if analysis.num_clusters == 1 else 'clusters'} in {where}"
        if len(names) == 1:
            largest = np.bincount(analysis.clusters).max() / result.num_cells
            return f"{found}; the largest has {largest:.0%} of them."
        counts = embed_tables.count_cells(analysis.clusters, result.slides)
        alone = int((counts.max(axis=1) >= ALMOST_ALL * counts.sum(axis=1)).sum())
        return f"{found}: in {alone or 'none'} of them, at least {ALMOST_ALL:.0%} of the cells are of a single slide."
    if analysis.graph is not None and len(names) > 1:
        elsewhere = embed_tables.neighbours_elsewhere(analysis.graph.distances, result.slides)
        return f"Nearest neighbours of {where}: {np.mean(elsewhere):.0%} of them are on another slide (mean of the slides)."
    return f"{'UMAP' if analysis.umap is not None else 'Nearest neighbours'} of {where}."


def remarks(result: Result) -> list[str]:
    """What has to be known to read the page."""
    notes = [f"The embedding is {result.slot}. All slides are analysed together."]
    if len(result.slides.names) > 1:
        notes.append(
            "Slides that are apart may differ in biology, but also in platform, gene panel or preparation. The page does not "
            "tell these apart; the command cifm share compares samples with a null distribution."
        )
        if result.own_centres:
            notes.append(
                "Each slide was centred on its own mean expression (--adapt slide). Slides that consist of other cells move "
                "apart by this, even two parts of one section. --adapt none centres all on the mean of the training slides, "
                "for sections that were processed alike."
            )
    if result.analysis.umap is not None:
        notes.append(
            "A UMAP keeps neighbourhoods, not distances: gaps between groups of cells and their areas mean little."
        )
    if result.analysis.num_fitted < result.num_cells:
        notes.append(
            f"{result.analysis.num_fitted:,} randomly chosen cells were analysed (--max-cells). Every other cell has the "
            "cluster, and the mean place, of the chosen cells that are nearest to it."
        )
    if others := others_name(result.cluster_names, colour_clusters(result.cluster_names)):
        notes.append(
            f"Clusters are numbered by size; the {len(CLUSTER_COLOURS)} largest have colours, {others} are grey. A smaller "
            "--resolution gives fewer clusters."
        )
    if result.types is not None and (others := others_name(_types(result), colour_categories(_types(result)))):
        notes.append(f"The {len(CATEGORY_COLOURS)} most frequent types of {result.label} have colours.")
    return notes


def figures(result: Result) -> dict[str, list[Figure]]:
    """All figures.

    Args:
        result: The analysis.

    Returns:
        Heading of a section to its figures.
    """
    sections = {"UMAP": _umap_figures(result)}
    if result.analysis.clusters is not None:
        sections["Clusters on the tissue"] = _tissue_maps(result)
        sections["Composition of the clusters"] = _composition_figures(result, result.analysis.clusters)
    return {heading: content for heading, content in sections.items() if content}


def _shown(result: Result, kind: str) -> tuple[NDArray[np.object_], dict[str, str]]:
    """(N,) entries of the legend of slides, clusters or types, and their colours."""
    clusters = result.analysis.clusters
    if kind == "cluster" and clusters is not None:
        categories = Categories(tuple(result.cluster_names), clusters)
    elif kind == "type" and result.types is not None:
        categories = result.types
    else:
        categories = result.slides
    names = [name for name in categories.names if name not in _UNTYPED]
    colours = colour_clusters(names) if kind == "cluster" else colour_categories(names)
    unknown = [name for name in _UNTYPED if name in categories.names]
    others = others_name(names, colours)
    shown = np.array(
        [name if name in colours or name in unknown else others for name in categories.names], dtype=object
    )
    return shown[categories.codes], shown_categories(names, colours) | dict.fromkeys(unknown, UNKNOWN)


def _umap_figures(result: Result) -> list[Figure]:
    places = result.analysis.umap
    if places is None:
        return []
    kinds = {"slide": "slide"} if len(result.slides.names) > 1 else {}
    kinds |= {"cluster": "cluster"} if result.analysis.clusters is not None else {}
    kinds |= {"type": result.type_title} if result.types is not None else {}
    if not kinds:
        kinds = {"slide": "slide"}

    def plan(kind: str, title: str) -> Draw:
        """The function that draws a figure."""
        names, entries = _shown(result, kind)
        numbers = {} if kind != "cluster" else _medians(places, result.analysis.clusters)
        return lambda image_format: draw_embedding(
            places, names, entries, title, numbers=numbers, image_format=image_format
        )

    return [
        Figure(f"umap_{kind}", f"UMAP of all cells by {what}", plan(kind, f"UMAP of the cells by {what}"))
        for kind, what in kinds.items()
    ]


def _medians(places: NDArray[np.float32], clusters: NDArray[np.int32] | None) -> dict[str, NDArray[np.float32]]:
    """The median place of the cells of each cluster with a colour of its own; more numbers would hide each other."""
    if clusters is None:
        return {}
    coloured = range(min(int(clusters.max()) + 1, len(CLUSTER_COLOURS)))
    return {str(number): np.median(places[clusters == number], axis=0) for number in coloured}


def _tissue_maps(result: Result) -> list[Figure]:
    shown, entries = _shown(result, "cluster")
    grey = others_name(result.cluster_names, colour_clusters(result.cluster_names))

    def plan(number: int, name: str) -> Draw:
        """The function that draws a figure."""
        own = shown[result.slides.codes == number]
        # The legend has the clusters of this slide only.
        present = set(own.tolist())
        colours = {name: colour for name, colour in entries.items() if name in present and name != grey}
        tissue = CellMap(result.xy_um[number], colours, others=grey if grey in present else "")
        return lambda image_format: tissue.draw(own, f"{name}: clusters", image_format=image_format)

    return [
        Figure(f"clusters_{name}", f"Clusters on the tissue of {name}", plan(number, name))
        for number, name in enumerate(result.slides.names)
    ]


def _composition_figures(result: Result, clusters: NDArray[np.int32]) -> list[Figure]:
    parts = {"slide": "slide"} if len(result.slides.names) > 1 else {}
    parts |= {"type": result.type_title} if result.types is not None else {}
    is_whole = len(result.cluster_names) <= _CLUSTERS_SHOWN

    def plan(kind: str, what: str) -> Draw:
        """The function that draws a figure."""
        shown, entries = _shown(result, kind)
        position = {name: number for number, name in enumerate(entries)}
        codes = np.array([position[name] for name in shown.tolist()], dtype=np.int32)
        counts = embed_tables.count_cells(clusters, Categories(tuple(entries), codes))
        fractions = (counts / counts.sum(axis=1, keepdims=True))[:_CLUSTERS_SHOWN]
        title = f"Cells of {'each cluster' if is_whole else f'the {_CLUSTERS_SHOWN} largest clusters'} by {what}"
        return lambda image_format: draw_composition(
            fractions, result.cluster_names[:_CLUSTERS_SHOWN], entries, title, label="cluster",
            image_format=image_format,
        )  # fmt: skip

    shown = "clusters" if is_whole else f"{_CLUSTERS_SHOWN} largest clusters"
    return [
        Figure(f"composition_{kind}", f"Composition of the {shown} by {what}", plan(kind, what))
        for kind, what in parts.items()
    ]


def tables(result: Result) -> dict[str, pd.DataFrame]:
    """Tables to be written: name of the file without suffix to its rows."""
    clusters = result.analysis.clusters
    if clusters is None:
        return {}
    by = {"slide": result.slides} | ({"type": result.types} if result.types is not None else {})
    return {
        f"composition_{kind}": embed_tables.composition_table(
            embed_tables.count_cells(clusters, categories), categories.names, kind
        )
        for kind, categories in by.items()
    }


def slide_table(result: Result) -> Table:
    """Cells of each slide, and how many of their nearest neighbours are on other slides."""
    sizes = np.bincount(result.slides.codes, minlength=len(result.slides.names))
    columns, graph = ["slide", "cells"], result.analysis.graph
    rows = [[name, f"{size:,}"] for name, size in zip(result.slides.names, sizes, strict=True)]
    if graph is not None and len(rows) > 1:
        columns += ["neighbours on other slides", "if slides did not matter"]
        elsewhere = embed_tables.neighbours_elsewhere(graph.distances, result.slides)
        expected = 1 - (sizes - 1) / max(1, result.num_cells - 1)
        for row, found, chance in zip(rows, elsewhere, expected, strict=True):
            row += [f"{found:.1%}", f"{chance:.1%}"]
    return Table(columns, rows)


def cluster_table(result: Result) -> Table:
    """Size, slides and types of the largest clusters."""
    clusters = result.analysis.clusters
    if clusters is None:
        raise ValueError("there are no clusters")
    sizes = np.bincount(clusters, minlength=result.analysis.num_clusters)
    columns = ["cluster", "cells", "of all"]
    rows = [
        [str(i), f"{size:,}", f"{size / result.num_cells:.1%}"]
        for i, size in enumerate(sizes[:_CLUSTERS_SHOWN].tolist())
    ]
    for title, categories in (("slides", result.slides), (result.type_title, result.types)):
        if categories is None or len(categories.names) < 2:
            continue
        columns.append(title)
        # Clusters that are not shown are in the tables beside the page.
        for row, counts in zip(rows, embed_tables.count_cells(clusters, categories), strict=False):
            largest = np.argsort(-counts, kind="stable")[:_TYPES_SHOWN]
            shares = [(categories.names[i], counts[i] / counts.sum()) for i in largest if counts[i]]
            row.append(", ".join(f"{name}: {share:.0%}" for name, share in shares))
    return Table(columns, rows)


def sections(result: Result, images: dict[str, list[Image]]) -> list[Section]:
    """The sections of the page.

    Args:
        result: The analysis.
        images: Heading of a section to its images.

    Returns:
        The sections.
    """
    clusters, texts = result.analysis.clusters, _texts(result)
    parts = [
        Section(
            heading, texts.get(heading, ""), cluster_table(result) if heading.startswith("Composition") else None, own
        )
        for heading, own in images.items()
    ]
    if clusters is not None and not any(heading.startswith("Composition") for heading in images):
        parts.append(Section("Clusters", "", cluster_table(result)))
    return [*parts, Section("Slides", texts["Slides"], slide_table(result))]


def _texts(result: Result) -> dict[str, Any]:
    config = result.config
    about = f"Graph: {config.k} nearest neighbours of each cell (with itself), Euclidean distances between embeddings. "
    if (resolution := result.analysis.resolution) is not None:
        about += f"Clusters: Leiden, resolution {resolution:g}. "
        if config.resolution is None:
            about += "It was chosen so that a reader can tell the clusters apart; a larger --resolution gives more. "
    return {
        "UMAP": "A point is a cell. Nearby cells have similar surroundings according to the model."
        if result.slot == "X_cifm"
        else "A point is a cell. Nearby cells have similar expression according to the model.",
        "Clusters on the tissue": "All slides have the same clusters in the same colours.",
        "Slides": f"{about}Seed {config.seed}.",
    }


def _types(result: Result) -> list[str]:
    return [] if result.types is None else [name for name in result.types.names if name not in _UNTYPED]
