"""`cifm prepare`: read downloads and write prepared slides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cifm_cli import workspace
from cifm_cli.commands import options
from cifm_cli.commands import prepare_options as own

if TYPE_CHECKING:
    from cifm_cli.data.prepare.batch import PrepareFailure
    from cifm_cli.data.prepare.config import PrepareConfig
    from cifm_cli.data.prepare.existing import PrepareResult


def prepare(
    downloads: own.Downloads = None,
    out: options.Out = workspace.PREPARED,
    name: own.Name = None,
    platform: own.Platform = None,
    bin_um: own.BinUm = 8,
    condition: own.Condition = "",
    tissue: own.Tissue = "",
    sample: own.Sample = None,
    radius_um: own.RadiusUm = None,
    microns_per_pixel: own.MicronsPerPixel = None,
    layer: own.Layer = None,
    gene_table: own.GeneTable = None,
    orthologs: own.Orthologs = None,
    matrix: own.Matrix = None,
    cells: own.Cells = None,
    keep: own.Keep = None,
    crop: own.Crop = None,
    by: own.By = None,
    z: own.Z = None,
    split: own.Split = own.SplitKind.regional,
    split_gap_um: own.SplitGapUm = None,
    seed: options.Seed = 0,
    sheet: own.Sheet = None,
    jobs: own.Jobs = 1,
    force: own.Force = False,
    as_json: options.Json = False,
) -> None:
    """Turn downloads into prepared slides: filter genes and cells, check units, split into regions."""
    from cifm_cli.data.crop import parse_crop
    from cifm_cli.data.prepare.config import PrepareConfig
    from cifm_cli.data.prepare.planes import parse_depth
    from cifm_cli.data.prepare.section_columns import parse_columns
    from cifm_cli.data.prepare.splits import SplitConfig
    from cifm_cli.path_text import printable

    inputs = _inputs(downloads, matrix, cells, sheet)
    tissue, condition, sample = printable(tissue), printable(condition), None if sample is None else printable(sample)
    # fmt: off
    config = PrepareConfig(
        out=out, name=name, platform=platform, bin_um=bin_um, condition=condition, tissue=tissue, sample=sample,
        radius_um=radius_um, microns_per_pixel=microns_per_pixel, layer=layer, gene_table=gene_table,
        orthologs=orthologs, cells=cells, keep=tuple(keep or ()), crop=parse_crop(crop) if crop else None,
        by=parse_columns(by) if by else (), z=parse_depth(z) if z else None,
        split=SplitConfig(split.value, split_gap_um, seed), force=force, qc_report=True,
    )
    # fmt: on
    _prepare_all(inputs, sheet, config, jobs, as_json=as_json)


def _inputs(downloads: list[Path] | None, matrix: Path | None, cells: Path | None, sheet: Path | None) -> list[Path]:
    """The downloads on the command line; none with a sheet."""
    inputs = [*(downloads or ()), *([matrix] if matrix else ())]
    if bool(inputs) == bool(sheet):
        raise typer.BadParameter("give downloads, or --matrix with --cells, or a --sheet of them")
    if (cells is None) != (matrix is None) or (matrix is not None and len(inputs) > 1):
        raise typer.BadParameter("--matrix and --cells go together, without another download")
    return inputs


def _prepare_all(inputs: list[Path], sheet: Path | None, config: PrepareConfig, jobs: int, *, as_json: bool) -> None:
    """Prepare downloads, show each result as soon as it is known, and raise an error at the end if one failed."""
    from cifm_cli.data.prepare.batch import PrepareFailure, PrepareTask, failure_error, prepare_all
    from cifm_cli.data.prepare.samplesheet import read_samplesheet
    from cifm_cli.report import terminal

    tasks = read_samplesheet(sheet, config) if sheet else [PrepareTask(download, config) for download in inputs]
    results: list[PrepareResult] = []
    failures: list[PrepareFailure] = []
    for outcome in prepare_all(tasks, jobs):
        if isinstance(outcome, PrepareFailure):
            failures.append(outcome)
        else:
            _show(outcome)
            results.append(outcome)
    if as_json and results:
        terminal.emit({"slides": {result.name: result.to_json() for result in results}})
    if not failures:
        return
    num_outcomes = len(results) + len(failures)
    if num_outcomes > 1:
        for failure in failures:
            terminal.fail(failure.message, failure.hint)
    raise failure_error(failures, len(tasks), num_outcomes)


def _show(result: PrepareResult) -> None:
    """Print the summary of a slide, its notes and warnings, and the files that were written."""
    from cifm_cli.data.prepare.qc_summary import summary_rows
    from cifm_cli.report import terminal
    from cifm_cli.report.table import Table

    if result.up_to_date:
        terminal.say(f"{result.path} is up to date")
        return
    terminal.show_table(result.name, Table(["", "number", ""], summary_rows(result.report)))
    for note in result.report["notes"]:
        terminal.say(f"note: {note}")
    for warning in result.report["warnings"]:
        terminal.warn(warning)
    terminal.say(f"wrote {result.path}")
    if result.qc_report:
        terminal.say(f"wrote {result.qc_report}, a report with maps of the slide")
