"""Inputs that no reader takes: what they are, and what the user can give instead."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import h5py

from cifm_cli.data.readers.file_kinds import (
    APPLE_DOUBLE,
    GZIP,
    HDF5,
    IMAGE,
    PARQUET,
    R_OBJECT,
    TAR,
    ZIP,
    FileKind,
    identify,
)
from cifm_cli.errors import CifmError
from cifm_cli.system_files import is_system_file, without_system_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MAX_NAMES = 8
_MAX_LEVELS_UP = 2  # folders above the one that was given, in which a download is looked for
_GIVE = "give the folder that holds experiment.xenium, spatial/ or binned_outputs/, an .h5ad, or --matrix with --cells"
_PART = "one file of a download", "give the folder that holds it, with the files that belong to it"
_COUNTS = "give the folder of the download, or --matrix with a table of cell centres as --cells"
_READS = FileKind("sequencing reads", "run the software of the instrument first, and give the folder of its output")
_MOLECULES = FileKind(
    "a table of single molecules", "give the folder with the counts of cells: cell_feature_matrix.h5 and cells.parquet"
)
# By a part of the name, in lower case, in this order; these formats have no signature of their own.
_BY_NAME = (
    (r"\.loom$", FileKind("a Loom file", "read it with scanpy.read_loom, and write it as .h5ad with obsm['spatial']")),
    (
        r"\.h5seurat$",
        FileKind("a Seurat file", "convert it to .h5ad (SeuratDisk, or anndataR), with obsm['spatial'] in micrometres"),
    ),
    (r"\.h5mu$", FileKind("a MuData file", "write the modality of the genes as .h5ad: mudata.read(FILE)['rna']")),
    (r"\.(rds|rda|rdata|qs)$", R_OBJECT),
    (r"\.(fastq|fq|bam|cram|sra)(\.gz)?$", _READS),
    (r"\.cloupe$", FileKind("a file of Loupe Browser", "give the folder `outs` of the same run")),
    (r"\.(tar|tgz|tar\.(gz|bz2|xz|zst))$", TAR),
    (r"transcripts|detected_transcripts|molecules?\b", _MOLECULES),
    (r"^(experiment\.xenium|.*tissue_positions.*|scalefactors_json\.json(\.gz)?|.*\.geojson)$", FileKind(*_PART)),
    (r"^.*(cell_feature_matrix|feature_(bc|cell)_matrix)\.(h5|zarr\.zip)$", FileKind("a matrix without positions", _COUNTS)),
    (r"\.(mtx)(\.gz)?$", FileKind("a matrix without positions", _COUNTS)),
    (r"\.(csv|tsv|txt)(\.gz)?$", FileKind("a table", _COUNTS)),
    (r"\.(ome\.)?(tiff?|png|jpe?g|svs|ndpi|btf|jp2)$", IMAGE),
)  # fmt: skip
_ARCHIVES = {ZIP, TAR}


def unrecognised(download: Path, known: list[str], recognises: Callable[[Path], bool]) -> CifmError:
    """Make the error for an input that no reader recognises.

    Args:
        download: An existing file or folder.
        known: Names of the platforms.
        recognises: Whether some reader recognises a path.

    Returns:
        The error, which says what the input is.
    """
    if download.is_dir():
        return _unrecognised_folder(download, known, recognises)
    kind = _kind_of_file(download)
    if kind is not None:
        return CifmError(f"{download}: {kind.description}", kind.hint.replace("FILE", str(download)))
    return CifmError(f"{download}: not a download of a known platform ({', '.join(known)})", _GIVE)


def _kind_of_file(path: Path) -> FileKind | None:
    kind = identify(path)
    by_name = next((kind for pattern, kind in _BY_NAME if re.search(pattern, path.name.lower())), None)
    if kind == APPLE_DOUBLE or is_system_file(path):
        return APPLE_DOUBLE
    if path.name.lower().endswith(".h5ad.gz") and kind in (GZIP, HDF5):
        return GZIP if kind == GZIP else FileKind("an .h5ad that is not compressed", "remove .gz from its name")
    if kind == HDF5:
        return by_name or _kind_of_hdf5(path)
    # A name says more than the signature of a compression or of a table.
    return by_name or kind if kind in (None, GZIP, PARQUET, ZIP) else kind


_ANNDATA = FileKind(
    "an AnnData, and not a download of that platform", "leave out --platform, or give --platform anndata"
)


def _kind_of_hdf5(path: Path) -> FileKind:
    """What an HDF5 file is that no reader recognised."""
    try:
        with h5py.File(path, "r") as file:
            names = set(file)
    except OSError:
        return HDF5
    if {"obs", "var"} <= names:
        is_named = path.name.lower().endswith(".h5ad")
        return (
            _ANNDATA if is_named else FileKind("an AnnData whose name does not end with .h5ad", "give it that ending")
        )
    if "mod" in names:
        return FileKind("a MuData file", "write the modality of the genes as .h5ad: mudata.read(FILE)['rna']")
    if {"row_attrs", "col_attrs"} <= names:
        return FileKind("a Loom file", "read it with scanpy.read_loom, and write it as .h5ad with obsm['spatial']")
    if "matrix" in names:
        return FileKind("a matrix without positions", _COUNTS)
    return HDF5


def _unrecognised_folder(folder: Path, known: list[str], recognises: Callable[[Path], bool]) -> CifmError:
    content = without_system_files(folder.iterdir())
    names = ", ".join(path.name for path in content[:_MAX_NAMES])
    message = f"{folder}: not a download of a known platform ({', '.join(known)}); found {names or 'an empty folder'}"
    # What an archive was unpacked to, or a folder of samples.
    inside = [path for path in content if recognises(path)]
    if inside:
        first = ", ".join(str(path) for path in inside[:3]) + (", ..." if len(inside) > 3 else "")
        return CifmError(message, f"give what it holds: {first}")
    if any(identify(path) in _ARCHIVES or _is_packed(path) for path in content):
        return CifmError(message, "unpack the archives in it first, with unzip or tar -xf")
    # Repositories store the files of a sample without folders, each with the name of the sample.
    if any(re.search(r"tissue_positions|scalefactors_json", path.name) for path in content):
        return CifmError(
            message,
            "make a folder for each sample, with its positions and scale factors in a subfolder `spatial` under their "
            "original names, such as spatial/tissue_positions_list.csv",
        )
    if any(re.search(r"transcripts|molecules?\b", path.name.lower()) for path in content):
        return CifmError(f"{folder}: {_MOLECULES.description}; found {names}", _MOLECULES.hint)
    # A subfolder of a download, such as `analysis` or `spatial`.
    above = next((path for path in folder.absolute().parents[:_MAX_LEVELS_UP] if recognises(path)), None)
    return CifmError(message, _GIVE if above is None else f"give the folder of the download: {above}")


def _is_packed(path: Path) -> bool:
    return os.path.isfile(path) and bool(re.search(r"\.(zip|tar|tgz|tar\.(gz|bz2|xz|zst))$", path.name.lower()))  # noqa: PTH113
