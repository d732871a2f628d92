"""From a download to a prepared slide: recognise, read, filter, check, order, split, write."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cifm_cli import keys, provenance
from cifm_cli.data.count_checks import check_counts
from cifm_cli.data.prepare.config import KEEP_MITOCHONDRIAL, KEEPABLE, PrepareConfig
from cifm_cli.data.prepare.existing import PrepareResult, existing_result, slide_options, target_path
from cifm_cli.data.prepare.gene_id_checks import gene_id_notes
from cifm_cli.data.prepare.gene_symbols import read_gene_table, read_orthologs, symbols_for
from cifm_cli.data.prepare.genes import plan_genes, species_note, unidentified_note
from cifm_cli.data.prepare.input_files import InputFiles
from cifm_cli.data.prepare.layout import check_layout, dropped_cells
from cifm_cli.data.prepare.order import hilbert_order
from cifm_cli.data.prepare.qc_report import qc_report_path, write_qc_report
from cifm_cli.data.prepare.qc_summary import summarise
from cifm_cli.data.prepare.slide_names import name_note, slide_name
from cifm_cli.data.prepare.species import OtherSpeciesCounts, find_species, foreign_cells_warning, mixture_note
from cifm_cli.data.prepare.split_by import Section, split_sections
from cifm_cli.data.prepare.splits import small_region_note
from cifm_cli.data.readers.counts import row_blocks
from cifm_cli.data.readers.cross_checks import CountCrossChecks
from cifm_cli.data.readers.files import searching
from cifm_cli.data.readers.registry import find_reader
from cifm_cli.data.readers.table import TABLE
from cifm_cli.data.units import check_units
from cifm_cli.data.writers.prepared import build_anndata, plot_content, set_metadata, storable_obs, write_prepared
from cifm_cli.data.writers.row_buffer import RowBuffer
from cifm_cli.errors import CifmError
from cifm_cli.report import terminal
from cifm_cli.storage.lock import holding_lock, lock_path
from cifm_cli.workspace import atomic_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from cifm_cli.data.prepare.genes import GenePlan
    from cifm_cli.data.prepare.species import Species
    from cifm_cli.data.readers.base import Download, Reader
    from cifm_cli.data.units import UnitCheck


def prepare_download(download: Path, config: PrepareConfig) -> PrepareResult:
    """Prepare one download as one slide and write it.

    Nothing is printed: notes and warnings are in the report of the result.

    Args:
        download: Folder or file.
        config: Options of the preparation, without `by`.

    Returns:
        The prepared slide and its report.

    Raises:
        CifmError: The download is not recognised, is damaged, holds several sections on top of each other, or holds no
            counts or no coordinates in micrometres; or another file of that name exists.
    """
    (outcome,) = prepare_sections(download, replace(config, by=()))
    if isinstance(outcome, CifmError):
        raise outcome
    return outcome


def prepare_sections(download: Path, config: PrepareConfig) -> Iterator[PrepareResult | CifmError]:
    """Prepare one download, each of its sections as a slide if `config.by` is given, and write the slides.

    Args:
        download: Folder or file.
        config: Options of the preparation.

    Yields:
        The slide of each section, or the error for which it could not be made; the other sections are not affected.

    Raises:
        CifmError: As `prepare_download`, for errors that concern the whole download.
    """
    name = slide_name(download, config)
    root, reader = _find_reader(download, config)
    # Before the download is read, so that a target that may not be replaced is an error at once.
    if not config.by and (existing := existing_result(root, reader, replace(config, name=name))):
        yield existing
        return
    source, species = _read(root, reader, config)
    sections: dict[str, Section | PrepareResult | CifmError] = {}
    for section in split_sections(source, config, name, str(root)):
        try:
            existing = existing_result(root, reader, section.config)
            sections[section.name] = existing or _check(section, root)
        except CifmError as error:
            sections[section.name] = error
    if not any(isinstance(part, Section) for part in sections.values()):
        yield from (part for part in sections.values() if not isinstance(part, Section))
        return
    with _buffered(root, source, species, config) as buffered:
        for part in sections.values():
            yield _write(part, buffered, reader) if isinstance(part, Section) else part


def prepare_to_anndata(download: Path, config: PrepareConfig) -> AnnData:
    """Prepare one download as one slide in memory; no file is written.

    Args:
        download: Folder or file.
        config: Options of the preparation, without `by`; `out`, `force` and `qc_report` have no effect.

    Returns:
        N cells x G genes, equal to the content of the file that `prepare_download` writes.

    Raises:
        CifmError: As `prepare_download`.
    """
    (slide,) = prepare_sections_to_anndata(download, replace(config, by=())).values()
    return slide


def prepare_sections_to_anndata(
    download: Path, config: PrepareConfig, reader: Reader | None = None
) -> dict[str, AnnData]:
    """Prepare one download in memory, each of its sections as a slide if `config.by` is given; no file is written.

    Args:
        download: Folder or file.
        config: Options of the preparation; `out`, `force` and `qc_report` have no effect.
        reader: Reader of the download; by default the one that recognises it.

    Returns:
        The name of each slide and its N cells x G genes, equal to the content of the file that `prepare_sections` writes.

    Raises:
        CifmError: As `prepare_download`.
    """
    name = slide_name(download, config)
    root, reader = (download, reader) if reader else _find_reader(download, config)
    config = replace(config, out=Path(tempfile.gettempdir()))  # where the row buffer is
    source, species = _read(root, reader, config)
    sections = [_check(section, root) for section in split_sections(source, config, name, str(root))]
    slides = {}
    with _buffered(root, source, species, config) as buffered:
        for section in sections:
            slide, metadata = _arrange(section, buffered)
            # The buffer is deleted when the block ends.
            slide.X = buffered.counts.read(slide.obs[keys.DOWNLOAD_ROW].to_numpy())
            set_metadata(slide, metadata)
            slides[section.name] = slide
    return slides


def _find_reader(download: Path, config: PrepareConfig) -> tuple[Path, Reader]:
    """The reader of a download; with `--cells`, the download is a matrix alone."""
    return (download, TABLE) if config.cells else find_reader(download, config.platform)


class _Buffered(NamedTuple):
    """The counts of all cells of a download, from which its sections are made."""

    root: Path  # folder or file of the download
    genes: GenePlan  # gene of each feature
    counts: RowBuffer  # counts over these genes
    obs: pd.DataFrame  # rows of all cells, with what was learnt from the counts
    warnings: list[str]  # signs of damage that showed while the counts were read
    inputs: dict[str, str]  # file of the download to its hash


@contextmanager
def _buffered(root: Path, download: Download, species: Species, config: PrepareConfig) -> Iterator[_Buffered]:
    """Read the counts of a download, once for all of its sections."""
    files, genes = InputFiles(download.files, root), _plan_genes(species, config, root)
    foreign = OtherSpeciesCounts(species, len(download.obs))
    with RowBuffer(_nearest_folder(config.out), len(download.obs), genes.ids) as buffer:
        # The counts are read before the cells are filtered, as the filters need their totals.
        warnings = _buffer_counts(buffer, download, genes, foreign, root)
        yield _Buffered(root, genes, buffer, foreign.annotate(download.obs), warnings, files.hashes())


def _check(section: Section, root: Path) -> Section:
    """Check how the cells of a section lie, before its counts are read."""
    notes = check_layout(section.download, section.config, section.where(root))
    return section._replace(download=replace(section.download, notes=(*section.download.notes, *notes)))


def _write(section: Section, buffered: _Buffered, reader: Reader) -> PrepareResult | CifmError:
    """Write the slide of a section and its report."""
    target = target_path(section.config)
    try:
        with holding_lock(lock_path(target), target, "cifm prepare"):
            # Another process may have written a slide of this name since the first check.
            if existing := existing_result(buffered.root, reader, section.config):
                return existing
            slide, metadata = _arrange(section, buffered)
            page = qc_report_path(target) if section.config.qc_report else None
            with atomic_files(target.parent, target.name) as new:
                write_prepared(new / target.name, slide, metadata, buffered.counts)
                if page:
                    write_qc_report(new / target.name)
    except CifmError as error:
        return error
    return PrepareResult(target, section.name, metadata[keys.REPORT], qc_report=page)


def _arrange(section: Section, buffered: _Buffered) -> tuple[AnnData, dict[str, Any]]:
    """The slide of a section without `X` and `uns["cifm"]`, and its metadata."""
    config = section.config
    slide, report = _arrange_cells(section, buffered)
    metadata = {
        keys.FORMAT: keys.PREPARED_FORMAT,
        keys.PLATFORM: section.download.platform,
        keys.RADIUS_UM: report["units"]["radius_um"],
        keys.TISSUE: config.tissue or section.download.tissue,
        keys.CONDITION: config.condition,
        keys.SAMPLE: config.sample or section.name,
        keys.REPORT: report,
        keys.PROVENANCE: {
            **provenance.collect("prepare", options=slide_options(config)),
            "inputs": buffered.inputs,
        },
    }
    return slide, metadata


def _read(root: Path, reader: Reader, config: PrepareConfig) -> tuple[Download, Species]:
    """Read a download, find the species of its genes, and check its gene ids against its symbols."""
    if unknown := set(config.keep) - set(KEEPABLE):
        raise CifmError(f"--keep {min(unknown)}: unknown", f"known are {', '.join(KEEPABLE)}")
    with searching(root):
        download = reader.read(root, config.read_config)
    species = find_species(download.genes, keep_all=config.orthologs is not None)
    checked = gene_id_notes(species.genes, f"{root}: {download.matrix}")
    notes = (name_note(root, config), *download.notes, *checked, mixture_note(species), _tissue_note(download, config))
    return replace(download, genes=species.genes, notes=tuple(filter(None, notes))), species


def _tissue_note(download: Download, config: PrepareConfig) -> str:
    """A note if the tissue comes from the download; empty if it does not."""
    if config.tissue or not download.tissue:
        return ""
    return f"tissue: {download.tissue}, for which the panel was designed; name another with --tissue"


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


def _arrange_cells(section: Section, buffered: _Buffered) -> tuple[AnnData, dict[str, Any]]:
    """Filter, order and split the cells; returns the slide, whose counts stay in the buffer, and its report."""
    config, download, where = section.config, section.download, section.where(buffered.root)
    total_counts, genes = buffered.counts.total_counts[section.rows], buffered.genes
    dropped = dropped_cells(download, total_counts, config, where)
    kept = np.flatnonzero(~np.logical_or.reduce(list(dropped.values())))
    if not len(kept):
        counted = ", ".join(f"{reason}: {mask.sum():,}" for reason, mask in dropped.items() if mask.any())
        raise CifmError(
            f"{where}: no cell is left of {len(total_counts):,} ({counted or 'the input has no cells'})",
            "check the input and --crop",
        )
    # Ordered after the filters: cells far outside would coarsen the grid of the curve.
    kept = kept[hilbert_order(download.xy_um[kept])]
    xy_um = download.xy_um[kept]
    # After the filters, as debris outside the crop would change the spacing.
    units = _check_units(xy_um, download.radius_um, config.radius_um, where)
    obs, notes = storable_obs(section.annotate(buffered.obs).iloc[kept])
    regions = config.split.regions(xy_um, units.radius_um)
    slide = build_anndata(buffered.counts, section.rows[kept], xy_um, obs, regions, genes.ids, genes.symbols)
    slide.obsm.update({name: values[kept] for name, values in download.obsm.items()})
    slide.uns.update(plot_content(download.uns, slide.obs, str(config.name)))
    optional = (
        species_note(genes.ids),
        foreign_cells_warning(obs),
        unidentified_note(genes),
        units.few_neighbours_note(),
        small_region_note(slide.obs[keys.SPLIT]),
        units.isolated_note(slide.obs_names),
    )
    warnings = [*download.warnings, *buffered.warnings, *filter(None, optional)]
    report = summarise(
        download, genes, dropped, units, slide, {"notes": [*download.notes, *notes], "warnings": warnings}
    )
    return slide, {**report, "split_by": config.split.describe(units.radius_um)}


def _check_units(
    xy_um: NDArray[np.float64], platform_um: float | None, given_um: float | None, where: str
) -> UnitCheck:
    try:
        return check_units(xy_um, platform_um, given_um)
    except CifmError as error:
        # The check does not know where the coordinates are from, and a call may prepare many downloads.
        raise CifmError(f"{where}: {error.message}", error.hint) from error


def _nearest_folder(folder: Path) -> Path:
    """The folder, or its nearest parent that exists: a failed preparation must not leave a new folder behind."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
