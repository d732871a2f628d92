"""The files of `cifm share`: JSON, tables, figures, the page, and an `.h5ad` of the cells of each slide."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cifm_cli import provenance, workspace
from cifm_cli.data.writers.embedded import open_embeddings, require_other_file
from cifm_cli.data.writers.sharing import write_sharing
from cifm_cli.report import canvas, html
from cifm_cli.sharing import report
from cifm_cli.sharing.share import describe, share_cells
from cifm_cli.sharing.slides import read_parts, require_different_names
from cifm_cli.sharing.tables import cluster_table, enrichment_table, group_table, matrix_table
from cifm_cli.storage.names import require_different_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.data.writers.embedded import OpenEmbeddings
    from cifm_cli.sharing.share import ShareConfig, Sharing
    from cifm_cli.sharing.slides import Level

_JSON = "sharing.json"


def share_slides(
    paths: Sequence[Path], level: Level, label: str | None, group: str | None, config: ShareConfig, out: Path
) -> tuple[Sharing, dict[str, Any]]:
    """Compute the sharing of embedded slides and write all files.

    Args:
        paths: Embedded slides.
        level: `microenvironment` or `cell`.
        label: Column of obs with types; None for `cifm_cell_type` where a slide has it.
        group: A column of obs, or condition, tissue or platform; None for no groups.
        config: The settings.
        out: The folder.

    Returns:
        The results, and the content of `sharing.json`.

    Raises:
        CifmError: A slide cannot be read, or the slides cannot be combined.
    """
    # Checked before the work: the results of a slide would replace those of another, or the slide.
    require_different_names(paths)
    require_different_files([path.stem for path in paths], out, "rename one of the files")
    for path in paths:
        require_other_file(out / f"{path.stem}.h5ad", path)
    slides = [open_embeddings(path) for path in paths]
    sharing = share_cells(read_parts(slides, level, label, group), config)
    facts = {key: value for key, value in asdict(config).items() if key != "seed"}
    origin = provenance.collect("share", seed=config.seed, inputs=paths, level=level, label=label, group=group, **facts)
    answer, remarks = report.answer(sharing), report.remarks(sharing)
    content = describe(sharing) | {"answer": {"sentence": answer, "remarks": remarks}, "provenance": origin}
    with workspace.atomic_files(out, _JSON, _is_figure) as new:
        _write_cells(new, slides, sharing, origin)
        _write_tables(new, sharing)
        _write_figures(new, sharing)
        html.write_report(
            new / "sharing.html",
            report.TITLE,
            report.sections(sharing),
            origin,
            answer=answer,
            remarks=remarks,
        )
        workspace.write_json(new / _JSON, content)
    return sharing, content


def _is_figure(name: str) -> bool:
    """Whether a file is a figure or table of an earlier call, which may have had other samples."""
    return name.startswith(("map_", "clusters_", "types_", "groups.")) and name.endswith(
        (".png", ".svg", ".csv", ".parquet")
    )


def _write_cells(folder: Path, slides: Sequence[OpenEmbeddings], sharing: Sharing, origin: dict[str, Any]) -> None:
    for number, slide in enumerate(slides):
        fractions = sharing.fractions.cells[sharing.cells.rows_of(number)]
        clustered = sharing.cells.parts[number].sample in sharing.by_sample
        clusters = report.clusters_of_part(sharing, number) if clustered else None
        write_sharing(folder / f"{slide.name}.h5ad", slide, fractions, clusters, sharing.samples, origin)


def _write_tables(folder: Path, sharing: Sharing) -> None:
    tables = {
        "matrix": matrix_table(sharing),
        "clusters": cluster_table(sharing),
        "enrichment": enrichment_table(sharing),
        **({} if sharing.group_test is None else {"groups": group_table(sharing)}),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
        table.to_parquet(folder / f"{name}.parquet", index=False)


def _write_figures(folder: Path, sharing: Sharing) -> None:
    for name in report.figure_names(sharing):
        (folder / f"{name}.png").write_bytes(report.draw_figure(sharing, name))
        with canvas.vector_graphics():
            (folder / f"{name}.svg").write_bytes(report.draw_figure(sharing, name))
