"""From a download to a prepared slide: recognise, read, filter, check, order, split, write."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import keys, provenance
from cifm_cli.data.count_checks import check_counts
from cifm_cli.data.metadata import read_metadata
from cifm_cli.data.prepare.config import KEEP_MITOCHONDRIAL, KEEP_OUTSIDE, KEEPABLE, PrepareConfig
from cifm_cli.data.prepare.filters import reasons_to_drop
from cifm_cli.data.prepare.gene_id_checks import gene_id_notes
from cifm_cli.data.prepare.gene_symbols import read_gene_table, read_orthologs, symbols_for
from cifm_cli.data.prepare.genes import plan_genes, species_note, unidentified_note
from cifm_cli.data.prepare.input_files import InputFiles
from cifm_cli.data.prepare.order import hilbert_order
from cifm_cli.data.prepare.qc_report import qc_report_path, require_replaceable, write_qc_report
from cifm_cli.data.prepare.qc_summary import summarise
from cifm_cli.data.prepare.slide_names import name_note, slide_name
from cifm_cli.data.prepare.species import OtherSpeciesCounts, find_species, foreign_cells_warning, mixture_note
from cifm_cli.data.prepare.splits import empty_region_note
from cifm_cli.data.readers.counts import row_blocks
from cifm_cli.data.readers.cross_checks import CountCrossChecks
from cifm_cli.data.readers.files import reading, searching
from cifm_cli.data.readers.registry import find_reader
from cifm_cli.data.readers.table import TABLE
from cifm_cli.data.units import check_units
from cifm_cli.data.writers.prepared import build_anndata, set_metadata, storable_obs, write_prepared
from cifm_cli.data.writers.row_buffer import RowBuffer
from cifm_cli.errors import CifmError
from cifm_cli.report import terminal
from cifm_cli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from cifm_cli.data.prepare.genes import GenePlan
    from cifm_cli.data.prepare.species import Species
    from cifm_cli.data.readers.base import Download, Reader


@dataclass(frozen=True)
class PrepareResult:
    """A prepared slide."""

    path: Path  # the `.h5ad`
    name: str  # name of the slide
    # number of cells and genes before and after the filters, with the reason of each drop; units; split; notes and
    # warnings for the user
    report: dict[str, Any]
    up_to_date: bool = False  # whether the slide existed already, made from the same inputs with the same options
    qc_report: Path | None = None  # the HTML report that was written; None if none was

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, for `--json`."""
        return {"path": str(self.path), "name": self.name, "up_to_date": self.up_to_date, **self.report}


def prepare_download(download: Path, config: PrepareConfig) -> PrepareResult:
    """Prepare one download and write the slide.

    Nothing is printed: notes and warnings are in the report of the result.

    Args:
        download: Folder or file.
        config: Options of the preparation.

    Returns:
        The prepared slide and its report.

    Raises:
        CifmError: The download is not recognised, is damaged, or holds no counts or no coordinates in micrometres; or
            another file of that name exists.
    """
    name = slide_name(download, config)
    target = config.out / f"{name}.h5ad"
    root, reader = _find_reader(download, config)
    # Before the download is read, so that a target that may not be replaced is an error at once.
    existing = _up_to_date_report(target, root, reader, config)
    if existing is not None:
        # A slide that was prepared without a report, or whose report was deleted, gets one now.
        if config.qc_report and not qc_report_path(target).exists():
            write_qc_report(target)
        return PrepareResult(target, name, existing, up_to_date=True)
    if config.qc_report:
        # Checked now, as the page is written last, after the slide.
        require_replaceable(qc_report_path(target))
    with _prepared_slide(root, reader, name, config) as (slide, metadata, buffer):
        write_prepared(target, slide, metadata, buffer)
    page = write_qc_report(target) if config.qc_report else None
    return PrepareResult(target, name, metadata[keys.REPORT], qc_report=page)


def prepare_to_anndata(download: Path, config: PrepareConfig) -> AnnData:
    """Prepare one download in memory; no file is written.

    Args:
        download: Folder or file.
        config: Options of the preparation; `out`, `force` and `qc_report` have no effect.

    Returns:
        N cells x G genes, equal to the content of the file that `prepare_download` writes.

    Raises:
        CifmError: The download is not recognised, is damaged, or holds no counts or no coordinates in micrometres.
    """
    name = slide_name(download, config)
    root, reader = _find_reader(download, config)
    config = replace(config, out=Path(tempfile.gettempdir()))  # where the row buffer is
    with _prepared_slide(root, reader, name, config) as (slide, metadata, buffer):
        # The buffer is deleted when the block ends.
        slide.X = buffer.read(slide.obs[keys.DOWNLOAD_ROW].to_numpy())
        set_metadata(slide, metadata)
    return slide


def _find_reader(download: Path, config: PrepareConfig) -> tuple[Path, Reader]:
    """The reader of a download; with `--cells`, the download is a matrix alone."""
    return (download, TABLE) if config.cells else find_reader(download, config.platform)


@contextmanager
def _prepared_slide(
    root: Path, reader: Reader, name: str, config: PrepareConfig
) -> Iterator[tuple[AnnData, dict[str, Any], RowBuffer]]:
    """Yield a prepared slide without `X` and `uns`, its metadata, and the counts of all cells of the download."""
    download, species = _read(root, reader, config)
    files, genes = InputFiles(download.files, root), _plan_genes(species, config, root)
    foreign = OtherSpeciesCounts(species, len(download.obs))
    with RowBuffer(_nearest_folder(config.out), len(download.obs), genes.ids) as buffer:
        # The counts are read before the cells are filtered, as the filters need their totals.
        warnings = _buffer_counts(buffer, download, genes, foreign, root)
        download = replace(download, warnings=(*download.warnings, *warnings), obs=foreign.annotate(download.obs))
        slide, report = _arrange_cells(root, download, genes, buffer, config)
        inputs = files.hashes()
        metadata = {
            keys.FORMAT: keys.PREPARED_FORMAT,
            keys.PLATFORM: download.platform,
            keys.RADIUS_UM: report["units"]["radius_um"],
            keys.TISSUE: config.tissue,
            keys.CONDITION: config.condition,
            keys.SAMPLE: config.sample or name,
            keys.REPORT: report,
            keys.PROVENANCE: {**provenance.collect("prepare", options=_slide_options(config)), "inputs": inputs},
        }
        yield slide, metadata, buffer


def _read(root: Path, reader: Reader, config: PrepareConfig) -> tuple[Download, Species]:
    """Read a download, find the species of its genes, and check its gene ids against its symbols."""
    if unknown := set(config.keep) - set(KEEPABLE):
        raise CifmError(f"--keep {min(unknown)}: unknown", f"known are {', '.join(KEEPABLE)}")
    with searching(root):
        download = reader.read(root, config.read_config)
    species = find_species(download.genes, keep_all=config.orthologs is not None)
    checked = gene_id_notes(species.genes, f"{root}: {download.matrix}")
    notes = (name_note(root, config), *download.notes, *checked, mixture_note(species))
    return replace(download, genes=species.genes, notes=tuple(filter(None, notes))), species


def _plan_genes(species: Species, config: PrepareConfig, root: Path) -> GenePlan:
    """The gene of each feature, by the packaged table and the user's tables."""
    table = None if config.gene_table is None else read_gene_table(config.gene_table)
    orthologs = None if config.orthologs is None else read_orthologs(config.orthologs)
    # The names of genes that are dropped would only decide by chance which table is taken.
    table = symbols_for(species.genes[~species.other], table)
    keep = KEEP_MITOCHONDRIAL in config.keep
    return plan_genes(species.marked(), table, orthologs, keep_mitochondrial=keep, where=f"{root}: ")


def _buffer_counts(
    buffer: RowBuffer, download: Download, genes: GenePlan, foreign: OtherSpeciesCounts, root: Path
) -> list[str]:
    """Read the counts once: check them, sum the features of each gene, buffer the rows. Returns warnings."""
    cross_checks, where = CountCrossChecks(download), f"{root}: {download.matrix}"
    # For the messages: the symbol of a feature, or its id if it has none.
    names = download.genes["symbol"].where(download.genes["symbol"] != "", download.genes["id"])
    with terminal.progress("cells", len(download.obs)) as advance:
        for first, block in row_blocks(download.counts):
            barcodes = download.obs.index[first : first + block.shape[0]]
            check_counts(block, barcodes, names, where, download.counts_hint)
            cross_checks.add(first, block)
            foreign.add(first, block)
            buffer.write(first, genes.apply(block))
            advance(block.shape[0])
    return cross_checks.warnings(where)


def _arrange_cells(
    root: Path, download: Download, genes: GenePlan, buffer: RowBuffer, config: PrepareConfig
) -> tuple[AnnData, dict[str, Any]]:
    """Filter, order and split the cells; returns the slide, whose counts stay in the buffer, and its report."""
    total_counts = buffer.total_counts
    in_tissue = None if KEEP_OUTSIDE in config.keep else download.in_tissue
    dropped = reasons_to_drop(download.xy_um, total_counts, in_tissue, config.crop)
    kept = np.flatnonzero(~np.logical_or.reduce(list(dropped.values())))
    if not len(kept):
        counted = ", ".join(f"{reason}: {mask.sum():,}" for reason, mask in dropped.items() if mask.any())
        raise CifmError(
            f"{root}: no cell is left of {len(total_counts):,} ({counted or 'the input has no cells'})",
            "check the input and --crop",
        )
    # Ordered after the filters: cells far outside would coarsen the grid of the curve.
    rows = kept[hilbert_order(download.xy_um[kept])]
    xy_um = download.xy_um[rows]
    # After the filters, as debris outside the crop would change the spacing.
    units = check_units(xy_um, download.radius_um, config.radius_um)
    obs, notes = storable_obs(download.obs.iloc[rows])
    regions = config.split.regions(xy_um, units.radius_um)
    slide = build_anndata(buffer, rows, xy_um, obs, regions, genes.ids, genes.symbols)
    optional = (
        species_note(genes.ids),
        foreign_cells_warning(obs),
        unidentified_note(genes),
        units.few_neighbours_note(),
        empty_region_note(slide.obs[keys.SPLIT]),
        units.isolated_note(slide.obs_names),
    )
    remarks = {"notes": [*download.notes, *notes], "warnings": [*download.warnings, *filter(None, optional)]}
    report = summarise(download, genes, dropped, units, slide, remarks)
    return slide, {**report, "split_by": config.split.describe(units.radius_um)}


def _up_to_date_report(target: Path, root: Path, reader: Reader, config: PrepareConfig) -> dict[str, Any] | None:
    """The report of an existing slide made from the same inputs with the same options; None if it must be written.

    Raises:
        CifmError: The target exists and may not be replaced.
    """
    if not target.exists():
        return None
    elsewhere = "choose another folder with --out or name with --name"
    metadata = read_metadata(target)
    # Checked even with `--force`, which allows to replace a slide but not to destroy the input.
    if target.samefile(root):
        raise CifmError(f"{target} is the input itself", elsewhere)
    if metadata is None:
        raise CifmError(f"{target} exists and is not a slide that cifm prepared", elsewhere)
    if config.force:
        return None
    origin = metadata.get(keys.PROVENANCE, {})
    # A slide written before an option existed was prepared with the value that is now the option's default.
    options = {**_slide_options(PrepareConfig()), **origin.get("options", {})}
    same_options = options == _slide_options(config) and metadata.get(keys.PLATFORM) == reader.name
    # Another version may filter differently.
    if origin.get("cifm") == __version__ and same_options and _same_inputs(origin.get("inputs", {}), root):
        return dict(metadata[keys.REPORT])
    raise CifmError(
        f"{target} exists, made from other input or with other options",
        "replace it with --force, or choose another --name",
    )


def _same_inputs(inputs: dict[str, str], root: Path) -> bool:
    """Whether the files of a slide still have the hashes with which they were read."""
    if root.is_file() and len(inputs) == 1:
        return list(inputs.values()) == [provenance.hash_file(root)]  # under any name
    folder = root if root.is_dir() else root.parent  # a matrix.mtx is read with the two files beside it
    return all(
        (folder / name).is_file() and provenance.hash_file(folder / name) == digest for name, digest in inputs.items()
    )


def _slide_options(config: PrepareConfig) -> dict[str, Any]:
    """The options that affect the content of a slide, as JSON values; tables by their hash."""
    options = asdict(config)
    # These options decide where and whether the slide is written, or are stored elsewhere (the platform).
    for key in ("out", "name", "force", "platform", "qc_report"):
        del options[key]
    for key in ("gene_table", "orthologs", "cells"):
        if (table := options[key]) is not None:
            with reading(table):
                options[key] = provenance.hash_file(table)
    options["crop"] = None if config.crop is None else list(config.crop)
    options["keep"] = sorted(config.keep)
    return options


def _nearest_folder(folder: Path) -> Path:
    """The folder, or its nearest parent that exists: a failed preparation must not leave a new folder behind."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
