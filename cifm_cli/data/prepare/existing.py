"""Slides that are prepared already: whether they are up to date, and whether they may be replaced."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cifm_cli import keys, provenance
from cifm_cli.data.metadata import read_metadata
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.qc_report import qc_report_path, require_replaceable, write_qc_report
from cifm_cli.data.readers.files import reading
from cifm_cli.errors import CifmError
from cifm_cli.path_text import path_from_text
from cifm_cli.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.data.readers.base import Reader


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


def target_path(config: PrepareConfig) -> Path:
    """Path of the slide of options with a name."""
    return config.out / f"{config.name}.h5ad"


def existing_result(root: Path, reader: Reader, config: PrepareConfig) -> PrepareResult | None:
    """Look for a slide that exists and is up to date.

    Args:
        root: Folder or file of the download.
        reader: Its reader.
        config: Options of the preparation, with the name of the slide.

    Returns:
        The slide and its report; None if it must be written.

    Raises:
        CifmError: The slide or its report exists and may not be replaced.
    """
    target = target_path(config)
    existing = _up_to_date_report(target, root, reader, config)
    if existing is None:
        if config.qc_report:
            # Checked now, as the page is written last, after the slide.
            require_replaceable(qc_report_path(target))
        return None
    # A slide that was prepared without a report, or whose report was deleted, gets one now.
    if config.qc_report and not qc_report_path(target).exists():
        write_qc_report(target)
    return PrepareResult(target, str(config.name), existing, up_to_date=True)


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
    options = {**slide_options(PrepareConfig()), **origin.get("options", {})}
    same_options = options == slide_options(config) and metadata.get(keys.PLATFORM) == reader.name
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
    files = {path_from_text(str(folder / name)): digest for name, digest in inputs.items()}
    return all(file.is_file() and provenance.hash_file(file) == digest for file, digest in files.items())


def slide_options(config: PrepareConfig) -> dict[str, Any]:
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
    options["by"] = list(config.by)
    options["z"] = None if config.z is None else list(config.z)
    return options
