"""The files of `cifm embed`: embedded slides in a format, with their joint analysis and its page."""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cifm_cli import keys, provenance
from cifm_cli.data.writers import analysed, embedding_formats
from cifm_cli.data.writers.h5ad import require_space
from cifm_cli.embedding import analysis as joint_analysis
from cifm_cli.embedding import embed_report
from cifm_cli.embedding.analysed_slides import check_slides, read_result
from cifm_cli.embedding.embed import embed_slides
from cifm_cli.embedding.existing_outputs import require_replaceable_slides
from cifm_cli.errors import CifmError, writing
from cifm_cli.inference.adaptation.option import SLIDE, can_adapt
from cifm_cli.path_text import file_name
from cifm_cli.report import html
from cifm_cli.storage.partial_files import remove, remove_leftovers, temporary_path
from cifm_cli.workspace import atomic_files, atomic_path, require_folder_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cifm_cli.data.writers.embedding_formats import Format
    from cifm_cli.embedding.analysis import AnalysisConfig
    from cifm_cli.embedding.embed_report import Result
    from cifm_cli.inference.adaptation.adapt import Adapt
    from cifm_cli.inference.encode import Level
    from cifm_cli.inference.loaded_model import LoadedModel

logger = logging.getLogger(__name__)

PAGE: Final = "report.html"
_PACKAGES: Final = ("scanpy", "umap-learn", "igraph", "pynndescent", "numba", "scikit-learn")


@dataclass(frozen=True)
class OutputConfig:
    """What is computed and written, and how."""

    levels: Sequence[Level]  # as for `embed_slides`
    analysis: AnalysisConfig  # its seed is that of the adaptation too
    adapt: Adapt = "none"  # as for `embed_slides`
    num_processes: int = 1  # as for `embed_slides`
    format: Format = "h5ad"
    label: str | None = None  # column of obs with types, for the page
    force: bool = False  # whether embedded slides of another model or of other cells are replaced


def check_outputs(slides: Sequence[Path], out: Path, config: OutputConfig) -> None:
    """Check before anything is computed what can be checked.

    Args:
        slides: Prepared slides.
        out: Folder of the files.
        config: What is written.

    Raises:
        CifmError: The folder has the name of a file, a package is missing, a file or folder that is no embedded slide would
            be replaced, or there is no column for `label`.
    """
    require_folder_name(out)
    embedding_formats.require_format(config.format)
    if config.analysis.is_asked:
        joint_analysis.require_packages()
        check_slides(slides, config.label)
    elif config.label is not None:
        raise CifmError(
            f"--label {config.label}: types are shown on the page of --umap, --clusters and --neighbors",
            "add --umap, or leave out --label",
        )
    reserved = ("umap_", "composition_", "clusters_") if config.analysis.is_asked and config.format == "parquet" else ()
    for slide in slides:
        if config.format == "zarr":
            embedding_formats.require_replaceable(out / f"{slide.stem}.zarr")
        if slide.stem.startswith(reserved):
            raise CifmError(f"{slide}: {slide.stem}.parquet is a name of the tables of the page", "rename the slide")


def write_embeddings(model: LoadedModel, slides: Sequence[Path], out: Path, config: OutputConfig) -> dict[str, Any]:
    """Embed prepared slides, analyse them together, and write them in a format.

    Args:
        model: The model.
        slides: Prepared slides, after `check_outputs`.
        out: Folder of the files.
        config: What is computed and written.

    Returns:
        `slides`, as returned by `embed_slides` with the final paths, and the `analysis` and the path of its `report`, if one
        was asked for.

    Raises:
        CifmError: As for `embed_slides`; a file may not be replaced; or there are too few cells, or too many types.
    """
    require_replaceable_slides(slides, out, config.format, model.checkpoint.folder, force=config.force)
    if not config.analysis.is_asked and (out / PAGE).is_file():
        logger.warning("%s: of an earlier analysis; --umap, --clusters or --neighbors write it anew", out / PAGE)
    is_h5ad = config.format == "h5ad"
    with ExitStack() as stack:
        # An `.h5ad` is useful without the analysis, so each is written as soon as it is complete.
        folder = out if is_h5ad else stack.enter_context(_staging_folder(out))
        described = embed_slides(
            model, slides, config.levels, folder, config.num_processes, adapt=config.adapt, seed=config.analysis.seed
        )
        content: dict[str, Any] = {"slides": described}
        if is_h5ad and not config.analysis.is_asked:
            return content
        sources = [folder / f"{path.stem}.h5ad" for path in slides]
        prefix, result = "", None
        if config.analysis.is_asked:
            prefix = analysed.name_prefix(sources)
            slot = keys.MICROENVIRONMENT if "microenvironment" in config.levels else keys.CELL
            own_centres = config.adapt == SLIDE and can_adapt(model)
            result = replace(read_result(sources, slot, config.label, config.analysis), own_centres=own_centres)
            content["analysis"] = _facts(result, prefix)
            content["report"] = (out / PAGE).as_posix()
        _write_all(sources, out, result, prefix, config, content)
    return content


def _facts(result: Result, prefix: str) -> dict[str, Any]:
    """What was computed, as JSON."""
    config, kinds = result.config, analysed.elements(prefix)
    slots = kinds["umap"] if config.umap else []
    if config.clusters:
        has_colours = bool(embed_report.cluster_colours(result.analysis.num_clusters))
        slots = slots + (kinds["clusters"] if has_colours else kinds["clusters"][:-1])
    slots = slots + (kinds["neighbors"] if result.analysis.graph is not None else [])
    return {
        "embedding": result.slot,
        "slides": list(result.slides.names),
        "cells": result.num_cells,
        "analysed_cells": result.analysis.num_fitted,
        "k": config.k,
        "resolution": result.analysis.resolution,
        "max_cells": config.max_cells,
        "seed": config.seed,
        "clusters": result.analysis.num_clusters if config.clusters else None,
        "slots": slots,
    }


def _write_all(
    sources: Sequence[Path],
    out: Path,
    result: Result | None,
    prefix: str,
    config: OutputConfig,
    content: dict[str, Any],
) -> None:
    """Write the slides in their format, and the page and what belongs to it."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES} if result else {}
    about = {**content.get("analysis", {}), "packages": packages}
    origin = provenance.collect("embed", seed=config.analysis.seed, analysis=about)
    if config.format == "zarr":
        for number, source in enumerate(sources):
            _add(source, result, number, prefix, origin)
            with atomic_path(out / f"{source.stem}.zarr") as temporary:
                embedding_formats.write_zarr(source, temporary)
            _describe(content, source, [out / f"{source.stem}.zarr"])
        if result is None:
            return
    last = PAGE if result else f"{sources[-1].stem}{'.parquet' if config.format == 'parquet' else '.names.txt'}"
    with atomic_files(out, last) as new:
        for number, source in enumerate(sources):
            files = _write_slide(source, new, (result, number), prefix, origin, config.format)
            if files:
                _describe(content, source, [out / name for name in files])
        if result is not None:
            _write_page(new, result, origin)


def _write_slide(
    source: Path, new: Path, part: tuple[Result | None, int], prefix: str, origin: dict[str, Any], file_format: Format
) -> list[str]:
    """Write one slide as files; returns their names, or none for a Zarr store, which is written already."""
    result, number = part
    names = analysed.slot_names(prefix)
    if file_format == "h5ad":
        with writing(source):
            require_space(new, source.stat().st_size + _graph_bytes(result, number))
        shutil.copyfile(source, new / source.name)
        _add(new / source.name, result, number, prefix, origin)
        return [source.name]
    if file_format == "parquet":
        _add(source, result, number, prefix, origin)
        embedding_formats.write_parquet(source, new / f"{source.stem}.parquet", names)
        return [f"{source.stem}.parquet"]
    if file_format == "npy":
        _add(source, result, number, prefix, origin)
        return embedding_formats.write_npy(source, new, names)
    return []


def _describe(content: dict[str, Any], source: Path, files: list[Path]) -> None:
    """Note the files of a slide."""
    about = content["slides"][file_name(source)]
    about["path"] = files[0].as_posix()
    if len(files) > 1:
        about["files"] = [file.as_posix() for file in files]
    if files[0].suffix != ".h5ad":
        logger.info("%s: written to %s", file_name(source), ", ".join(map(str, files)))


def _graph_bytes(result: Result | None, number: int) -> int:
    """About the size of the analysis of a slide in a file."""
    if result is None:
        return 0
    num_cells = len(result.xy_um[number])
    return num_cells * (16 + (36 * result.config.k if result.analysis.graph is not None else 0)) + (1 << 20)


def _add(path: Path, result: Result | None, number: int, prefix: str, origin: dict[str, Any]) -> None:
    """Add the analysis of a slide to its file."""
    if result is None:
        return
    analysis, config = result.analysis, result.config
    rows = result.slides.codes == number
    graph = None if analysis.graph is None else analysis.graph
    params = {"resolution": analysis.resolution, "random_state": config.seed, "n_iterations": 2}
    part = analysed.SlideAnalysis(
        about=origin,
        umap=None if analysis.umap is None else analysis.umap[rows],
        umap_params=analysis.umap_params,
        clusters=None if analysis.clusters is None else analysis.clusters[rows],
        cluster_params=params,
        cluster_colours=embed_report.cluster_colours(analysis.num_clusters),
        # The neighbours on the same slide: a file holds the cells of one slide.
        distances=None if graph is None else graph.distances[rows][:, rows],
        connectivities=None if graph is None else graph.connectivities[rows][:, rows],
        neighbor_params=None if graph is None else {**graph.params, "use_rep": result.slot},
    )
    analysed.add_analysis(path, part, prefix)


def _write_page(new: Path, result: Result, origin: dict[str, Any]) -> None:
    """Write the page, its figures and its tables."""
    images: dict[str, list[html.Image]] = {}
    for heading, figures in embed_report.figures(result).items():
        for figure in figures:
            image = html.draw_image(partial(figure.draw, "png"), figure.caption)
            (new / f"{figure.name}.png").write_bytes(image.content)
            (new / f"{figure.name}.svg").write_bytes(figure.draw("svg"))
            images.setdefault(heading, []).append(image)
    for name, table in embed_report.tables(result).items():
        table.to_csv(new / f"{name}.csv", index=False, lineterminator="\n")
        table.to_parquet(new / f"{name}.parquet", index=False, write_page_checksum=True)
    html.write_report(
        new / PAGE,
        "Microenvironments of slides" if result.slot == keys.MICROENVIRONMENT else "Cells of slides",
        embed_report.sections(result, images),
        origin,
        answer=embed_report.answer(result),
        remarks=embed_report.remarks(result),
    )


@contextmanager
def _staging_folder(out: Path) -> Iterator[Path]:
    """A folder for files that are converted, which is removed at the end."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        remove_leftovers(out)
        folder = temporary_path(out / "embedded")
        try:
            folder.mkdir()
            yield folder
        finally:
            remove(folder)
