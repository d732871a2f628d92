"""From downloads to prepared slides: recognise, read, filter, check, order, split, write."""

from __future__ import annotations

import re
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli import __version__, keys, provenance
from cifm_cli.data.prepare.filters import check_counts, reasons_to_drop
from cifm_cli.data.prepare.gene_id_checks import name_notes
from cifm_cli.data.prepare.gene_symbols import read_gene_table, read_orthologs, symbols_for
from cifm_cli.data.prepare.genes import plan_genes, share_note, species_note
from cifm_cli.data.prepare.order import hilbert_order
from cifm_cli.data.prepare.qc_report import check_page, page_of, write_page
from cifm_cli.data.prepare.qc_summary import make_report, show_report
from cifm_cli.data.prepare.splits import empty_note
from cifm_cli.data.readers.anndata import ANNDATA
from cifm_cli.data.readers.base import KEEP_MITOCHONDRIAL, KEEP_OUTSIDE, KEEPABLE, PrepareConfig, reading
from cifm_cli.data.readers.counts import row_blocks
from cifm_cli.data.readers.cross_checks import Agreement
from cifm_cli.data.readers.spatialdata import SPATIALDATA
from cifm_cli.data.readers.table import TABLE
from cifm_cli.data.readers.visium import VISIUM
from cifm_cli.data.readers.visium_hd import VISIUM_HD
from cifm_cli.data.readers.xenium import XENIUM
from cifm_cli.data.units import check_units
from cifm_cli.data.writers import prepared
from cifm_cli.data.writers.row_buffer import Spool
from cifm_cli.errors import CifmError
from cifm_cli.report import terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from cifm_cli.data.prepare.genes import GenePlan
    from cifm_cli.data.readers.base import Download, Reader

READERS = (ANNDATA, SPATIALDATA, XENIUM, VISIUM_HD, VISIUM)
_OUTS = "outs"
_NO_NAME = re.compile(r"outs|binned_outputs|segmented_outputs|square_\d{3}um")  # folders that every download has
_ENDINGS = re.compile(r"(\.(h5ad|zarr|h5|mtx|csv|tsv|txt|gz))+$")


@dataclass(frozen=True)
class PrepareResult:
    """A prepared slide.

    Args:
        path: The `.h5ad`.
        name: Name of the slide.
        report: Cells and genes in, dropped by reason and kept; units; split; notes.
        up_to_date: The slide was there already, made of the same inputs with the same options.
    """

    path: Path
    name: str
    report: dict[str, Any]
    up_to_date: bool = False

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"path": str(self.path), "name": self.name, "up_to_date": self.up_to_date, **self.report}


def prepare_download(download: Path, options: PrepareConfig) -> PrepareResult:
    """Prepare one download: read it, filter it, check it, write it, say what was dropped.

    Args:
        download: Folder or file.
        options: What the user asks.

    Returns:
        The prepared slide and its report.

    Raises:
        CifmError: The download is not recognised, is damaged, holds no counts or no micrometres, or the slide exists.
    """
    name = slide_name(download, options)
    target = options.out / f"{name}.h5ad"
    root, reader = (download, TABLE) if options.cells else recognise(download, options.platform)
    existing = _existing(target, root, reader, options)
    if existing is not None:
        terminal.say(f"{target} is up to date")
        if options.page and not page_of(target).exists():
            write_page(target)
        return PrepareResult(target, name, existing, up_to_date=True)
    if options.page:
        check_page(target)
    with _prepared_slide(root, reader, name, options) as (slide, about, spool):
        prepared.write(target, slide, about, spool)
    report = about[keys.REPORT]
    show_report(name, report)
    terminal.say(f"wrote {target}")
    if options.page:
        terminal.say(f"look at {write_page(target)}")
    return PrepareResult(target, name, report)


def prepare_to_anndata(download: Path, config: PrepareConfig) -> AnnData:
    """Prepare one download in memory; no file is written.

    Args:
        download: Folder or file.
        config: Options of the preparation; `out`, `force` and `page` have no effect.

    Returns:
        N cells x G genes, what `anndata.read_h5ad` returns for the file that `prepare_download` writes.

    Raises:
        CifmError: The download is not recognised, is damaged, or holds no counts or no coordinates in micrometres.
    """
    name = slide_name(download, config)
    root, reader = (download, TABLE) if config.cells else recognise(download, config.platform)
    config = replace(config, out=Path(tempfile.gettempdir()))  # the row buffer is the only file
    with _prepared_slide(root, reader, name, config) as (slide, about, spool):
        slide.X = spool.read(slide.obs[keys.DOWNLOAD_ROW].to_numpy())
        slide.uns[keys.CIFM] = prepared.encode_about(about)
    return slide


@contextmanager
def _prepared_slide(
    root: Path, reader: Reader, name: str, config: PrepareConfig
) -> Iterator[tuple[AnnData, dict[str, Any], Spool]]:
    """Yield a prepared slide without `X` and `uns`, its `uns["cifm"]`, and the counts of the whole download."""
    content = _read(root, reader, config)
    genes = _plan(content, config)
    with Spool(_nearest_folder(config.out), len(content.obs), len(genes.ids)) as spool:
        content = replace(content, warnings=(*content.warnings, *_fill(spool, content, genes, root)))
        slide, report = _arrange(root, content, genes, spool, config)
        inputs = {_relative(file, root): provenance.hash_file(file) for file in content.files}
        about = {
            keys.FORMAT: keys.PREPARED_FORMAT,
            keys.PLATFORM: content.platform,
            keys.RADIUS_UM: report["units"]["radius_um"],
            keys.TISSUE: config.tissue,
            keys.CONDITION: config.condition,
            keys.SAMPLE: config.sample or name,
            keys.REPORT: report,
            keys.PROVENANCE: {**provenance.collect("prepare", options=_settings(config)), "inputs": inputs},
        }
        yield slide, about, spool


def slide_name(download: Path, options: PrepareConfig) -> str:
    """Name of the prepared slide: the one asked for, or that of the download.

    Args:
        download: Folder or file.
        options: What the user asks.

    Returns:
        The name; for a folder that every download has, such as `outs`, that of its parent.

    Raises:
        CifmError: The name asked for is no file name.
    """
    if options.name is not None:
        if not options.name or "/" in options.name or options.name.startswith("."):
            raise CifmError(f"--name {options.name!r} cannot name a file", "use letters, digits, - and _")
        return options.name.removesuffix(".h5ad")
    path = download.resolve()
    while _NO_NAME.fullmatch(path.name):
        path = path.parent
    return _ENDINGS.sub("", path.name)


def recognise(download: Path, platform: str | None = None) -> tuple[Path, Reader]:
    """Find the reader of a download.

    Args:
        download: Folder or file.
        platform: Name of the reader to insist on.

    Returns:
        The folder or file to read (the `outs` inside, where that is what holds the data) and its reader.

    Raises:
        CifmError: Nothing is there, or no reader takes it.
    """
    known = ", ".join(reader.name for reader in READERS)
    if not download.exists():
        raise CifmError(f"{download}: no such file or folder", "give the folder of a download, or an .h5ad")
    if platform is not None and platform not in known.split(", "):
        raise CifmError(f"--platform {platform}: unknown", f"known are {known}")
    readers = [reader for reader in READERS if platform in (None, reader.name)]
    for root in (download, download / _OUTS):
        for reader in readers:
            if reader.recognises(root):
                return root, reader
    if platform is not None:
        return download, readers[0]  # which says what it misses
    raise _unrecognised(download, known)


def _unrecognised(download: Path, known: str) -> CifmError:
    held = ", ".join(sorted(path.name for path in download.iterdir())[:8]) if download.is_dir() else download.name
    return CifmError(
        f"{download}: not a download of a known platform ({known}); found {held or 'an empty folder'}",
        "give the folder that holds experiment.xenium, spatial/ or binned_outputs/, an .h5ad, or --matrix with --cells",
    )


def _read(root: Path, reader: Reader, options: PrepareConfig) -> Download:
    if unknown := set(options.keep) - set(KEEPABLE):
        raise CifmError(f"--keep {min(unknown)}: unknown", f"known are {', '.join(KEEPABLE)}")
    download = reader.read(root, options)
    notes = name_notes(download.genes, f"{root}: {download.matrix}")
    return replace(download, notes=(*download.notes, *notes))


def _plan(download: Download, options: PrepareConfig) -> GenePlan:
    table = None if options.gene_table is None else read_gene_table(options.gene_table)
    orthologs = None if options.orthologs is None else read_orthologs(options.orthologs)
    table = symbols_for(download.genes, table)
    return plan_genes(download.genes, table, orthologs, keep_mitochondrial=KEEP_MITOCHONDRIAL in options.keep)


def _fill(spool: Spool, download: Download, genes: GenePlan, root: Path) -> list[str]:
    """Go through the counts once: check them, sum the features of each gene, set the rows aside; return warnings."""
    agreement, where = Agreement(download), f"{root}: {download.matrix}"
    names = download.genes["symbol"].where(download.genes["symbol"] != "", download.genes["id"])
    with terminal.progress("cells", len(download.obs)) as advance:
        for first, block in row_blocks(download.counts):
            barcodes = download.obs.index[first : first + block.shape[0]]
            check_counts(block, barcodes, names, where, download.instead)
            agreement.add(first, block)
            spool.write(first, genes.apply(block))
            advance(block.shape[0])
    return agreement.warnings(where)


def _arrange(
    root: Path, download: Download, genes: GenePlan, spool: Spool, options: PrepareConfig
) -> tuple[AnnData, dict[str, Any]]:
    """Choose the cells that enter the slide and their order; its counts stay in the spool."""
    total = spool.total_counts
    in_tissue = None if KEEP_OUTSIDE in options.keep else download.in_tissue
    dropped = reasons_to_drop(download.xy_um, total, in_tissue, options.crop)
    kept = np.flatnonzero(~np.logical_or.reduce(list(dropped.values())))
    if not len(kept):
        counted = ", ".join(f"{reason}: {mask.sum():,}" for reason, mask in dropped.items() if mask.any())
        raise CifmError(
            f"{root}: no cell is left of {len(total):,} ({counted or 'none came in'})", "check the input and --crop"
        )
    rows = kept[hilbert_order(download.xy_um[kept])]
    units = check_units(download.xy_um[rows], download.radius_um, options.radius_um)
    obs, notes = prepared.storable(download.obs.iloc[rows])
    regions = options.split.regions(download.xy_um[rows], units.radius_um)
    slide = prepared.build(spool, download.xy_um[rows], obs, rows, genes, regions)
    empty = empty_note(slide.obs[keys.SPLIT])
    warnings = [*download.warnings, *filter(None, (species_note(genes.ids), share_note(genes), units.note(), empty))]
    if len(units.alone):
        warnings.append(units.alone_note(slide.obs_names[units.alone[0]]))
    remarks = {"notes": [*download.notes, *notes], "warnings": warnings}
    report = make_report(download, genes, dropped, units, slide, remarks)
    return slide, {**report, "split_by": options.split.describe(units.radius_um)}


def _existing(target: Path, root: Path, reader: Reader, options: PrepareConfig) -> dict[str, Any] | None:
    """Report of the slide that is there and made of the same; None when it is to be written.

    Raises:
        CifmError: Something else is there.
    """
    if not target.exists():
        return None
    about = prepared.read_about(target)
    if target.samefile(root):
        raise CifmError(f"{target} is the input itself", "choose another folder with --out or name with --name")
    if about is None:
        raise CifmError(
            f"{target} exists and is no slide that cifm prepared",
            "choose another folder with --out or name with --name",
        )
    made = about[keys.PROVENANCE]
    as_made = {**_settings(PrepareConfig()), **made["options"]}  # options that came later were at their defaults
    same = made["cifm"] == __version__ and as_made == _settings(options) and about[keys.PLATFORM] == reader.name
    if not options.force and same and all(_hash(root, file) == digest for file, digest in made["inputs"].items()):
        return dict(about[keys.REPORT])
    if not options.force:
        raise CifmError(
            f"{target} exists, made of other input or with other options",
            "replace it with --force, or choose another --name",
        )
    return None


def _settings(options: PrepareConfig) -> dict[str, Any]:
    """Options that shape the slide, as JSON values."""
    chosen = asdict(options)
    for key in ("out", "name", "force", "platform", "page"):
        del chosen[key]
    for key in ("gene_table", "orthologs", "cells"):
        if (table := chosen[key]) is not None:
            with reading(table):
                chosen[key] = provenance.hash_file(table)
    chosen["crop"] = None if options.crop is None else list(options.crop)
    chosen["keep"] = sorted(options.keep)
    return chosen


def _nearest_folder(folder: Path) -> Path:
    """The folder itself, or what there is of the path to it: a slide that fails leaves no folder behind."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if root.is_dir() else file.name


def _hash(root: Path, relative: str) -> str | None:
    file = root / relative if root.is_dir() else root
    return provenance.hash_file(file) if file.is_file() else None
