"""Gene symbols: the packaged table of human and mouse genes, the user's own, and tables of orthologs."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cifm_cli.data.prepare.genes import is_ensembl, strip_version
from cifm_cli.data.readers.base import open_maybe_gzip, reading
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

_TABLE = "gene_symbols.tsv.xz"  # symbol, id; sources and licence in gene_symbols.LICENSE.txt
_HUMAN, _MOUSE = "ENSG0", "ENSMUSG"
_SYMBOL_HEADERS = {"symbol", "gene_symbol", "gene_name", "name"}


@cache
def packaged_symbols() -> pd.DataFrame:
    """Human and mouse genes of GENCODE: columns id and symbol."""
    content = BytesIO(files(__package__).joinpath(_TABLE).read_bytes())
    return pd.read_csv(content, sep="\t", compression="xz", dtype=str, keep_default_na=False)


def symbols_for(features: pd.DataFrame, given: pd.DataFrame | None) -> pd.DataFrame:
    """Table to name the features by: the user's, and the packaged one of their species for what it leaves open.

    Args:
        features: Columns id and symbol.
        given: The user's table, columns id and symbol; or None.

    Returns:
        Columns id and symbol; empty where every feature has both already.
    """
    if given is None:
        given = pd.DataFrame({"id": [], "symbol": []}, dtype=str)
        if is_ensembl(features["id"]).all() and (features["symbol"] != "").all():
            return given
    table = packaged_symbols()
    of_species = table[table["id"].str.startswith(_species(features, table))]
    rest = of_species[~of_species["symbol"].isin(given["symbol"])]
    return pd.concat([given, rest[["id", "symbol"]]], ignore_index=True)


def _species(features: pd.DataFrame, table: pd.DataFrame) -> str:
    """Prefix of the ids of the species that most ids belong to, or else most symbols as they are spelt."""
    names = set(features["symbol"]) | set(features["id"])

    def num_matches(prefix: str) -> tuple[int, int]:
        own = table["symbol"][table["id"].str.startswith(prefix)]
        return int(features["id"].str.startswith(prefix).sum()), int(own.isin(names).sum())

    return max((_HUMAN, _MOUSE), key=num_matches)


def read_gene_table(path: Path) -> pd.DataFrame:
    """Read a table of Ensembl ids and symbols.

    Args:
        path: CSV or TSV, with or without header and further columns; the id is the column of Ensembl ids, the symbol a
            column of that name or else the first other one.

    Returns:
        Columns id (without version) and symbol.

    Raises:
        CifmError: It cannot be read, or no column holds Ensembl ids.
    """
    table = _read_columns(path)
    shares = [is_ensembl(table[name]).mean() for name in table.columns]
    best = int(np.argmax(shares))
    if table.shape[1] < 2 or shares[best] < 0.5:
        raise CifmError(f"{path}: no column of Ensembl gene ids beside symbols", "write two columns, id and symbol")
    header = [str(name).strip().lower() for name in table.iloc[0]]
    others = [position for position in range(table.shape[1]) if position != best]
    named = [position for position in others if header[position] in _SYMBOL_HEADERS]
    table = table[is_ensembl(table[best])]
    return pd.DataFrame(
        {"id": [strip_version(gene) for gene in table[best]], "symbol": table[(named or others)[0]].to_numpy()}
    )


def read_orthologs(path: Path) -> dict[str, set[str]]:
    """Read which human genes the genes of another species correspond to.

    Args:
        path: CSV or TSV, with or without header and further columns; one column holds human Ensembl ids, another those
            of the other species, as Ensembl's BioMart writes them.

    Returns:
        Id of the other species to human ids, all without version.

    Raises:
        CifmError: It cannot be read, or lacks one of the two columns.
    """
    table = _read_columns(path)
    ensembl = table.apply(is_ensembl)
    human = table.apply(lambda column: column.str.startswith(_HUMAN)) & ensembl
    other = ensembl & ~human
    if not (human.to_numpy().any() and other.to_numpy().any()):
        raise CifmError(
            f"{path}: no column of human Ensembl ids beside one of another species",
            "write two columns, such as ENSMUSG00000023274 and ENSG00000010610",
        )
    source, target = int(other.sum().to_numpy().argmax()), int(human.sum().to_numpy().argmax())
    pairs = table[other[source] & human[target]]
    orthologs: dict[str, set[str]] = {}
    for name, gene in zip(pairs[source], pairs[target], strict=True):
        orthologs.setdefault(strip_version(name), set()).add(strip_version(gene))
    return orthologs


def _read_columns(path: Path) -> pd.DataFrame:
    """All cells of a table as text, under the column numbers 0, 1, ..."""
    with reading(path), open_maybe_gzip(path) as handle:
        return pd.read_csv(handle, header=None, dtype=str, keep_default_na=False, sep=None, engine="python")
