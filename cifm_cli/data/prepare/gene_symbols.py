"""Tables of gene symbols and of orthologs: the packaged table of human and mouse genes, and the user's tables."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cifm_cli.data.ensembl import are_ensembl_ids, strip_version
from cifm_cli.data.readers.files import reading
from cifm_cli.data.readers.text_tables import read_fields
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

_TABLE = "gene_symbols.tsv.xz"  # symbol, id; sources and licence in gene_symbols.LICENSE.txt
_SEPARATORS = "\t,;|"
_HUMAN, _MOUSE = "ENSG0", "ENSMUSG"
_SYMBOL_HEADERS = {"symbol", "gene_symbol", "gene_name", "name"}


@cache
def packaged_symbols() -> pd.DataFrame:
    """The human and mouse genes of GENCODE, a table with columns id and symbol."""
    # Through `importlib.resources`, as an installed package need not be a folder.
    content = BytesIO(files(__package__).joinpath(_TABLE).read_bytes())
    return pd.read_csv(content, sep="\t", compression="xz", dtype=str, keep_default_na=False)


def symbols_for(features: pd.DataFrame, given: pd.DataFrame | None) -> pd.DataFrame:
    """Combine the user's table with the packaged table of the features' species, for symbols that the first lacks.

    Args:
        features: Columns id and symbol.
        given: The user's table, columns id and symbol; None if there is none.

    Returns:
        Columns id and symbol; empty if every feature already has both.
    """
    if given is None:
        given = pd.DataFrame({"id": [], "symbol": []}, dtype=str)
        # Reading the packaged table takes time, and nothing is left to look up.
        if are_ensembl_ids(features["id"]).all() and (features["symbol"] != "").all():
            return given
    table = packaged_symbols()
    of_species = table[table["id"].str.startswith(_species(features, table))]
    # The user's symbols take precedence, so the packaged ids of the same symbols are left out.
    not_given = of_species[~of_species["symbol"].isin(given["symbol"])]
    return pd.concat([given, not_given[["id", "symbol"]]], ignore_index=True)


def _species(features: pd.DataFrame, table: pd.DataFrame) -> str:
    """Prefix of the ids of the species with the most matching ids, or if equal, the most matching symbols."""
    names = set(features["symbol"]) | set(features["id"])

    def num_matches(prefix: str) -> tuple[int, int]:
        """Number of matching ids, then of matching symbols, of one species."""
        symbols = table["symbol"][table["id"].str.startswith(prefix)]
        return int(features["id"].str.startswith(prefix).sum()), int(symbols.isin(names).sum())

    # Ids come first: symbols of mouse genes in capital letters match the human table.
    return max((_HUMAN, _MOUSE), key=num_matches)


def read_gene_table(path: Path) -> pd.DataFrame:
    """Read a table of Ensembl ids and symbols.

    Args:
        path: CSV or TSV, with or without header and further columns. The ids are the column of Ensembl ids; the symbols
            are the column with a name such as `symbol`, or else the first other column.

    Returns:
        Columns id (without version) and symbol.

    Raises:
        CifmError: The file cannot be read, or no column holds Ensembl ids.
    """
    table = _read_columns(path)
    fractions = [are_ensembl_ids(table[name]).mean() for name in table.columns]
    best = int(np.argmax(fractions))
    # Half, as a header and rows without an id are allowed.
    if table.shape[1] < 2 or fractions[best] < 0.5:
        raise CifmError(f"{path}: no column of Ensembl gene ids beside symbols", "write two columns, id and symbol")
    header = [str(name).strip().lower() for name in table.iloc[0]]
    others = [position for position in range(table.shape[1]) if position != best]
    named = [position for position in others if header[position] in _SYMBOL_HEADERS]
    # Rows without an Ensembl id, such as a header, are left out.
    table = table[are_ensembl_ids(table[best])]
    return pd.DataFrame(
        {"id": [strip_version(gene) for gene in table[best]], "symbol": table[(named or others)[0]].to_numpy()}
    )


def read_orthologs(path: Path) -> dict[str, set[str]]:
    """Read the human genes that the genes of another species correspond to.

    Args:
        path: CSV or TSV, with or without header and further columns. One column holds human Ensembl ids, another the
            Ensembl ids of the other species, as Ensembl's BioMart writes them.

    Returns:
        Id of the other species to human ids, without versions.

    Raises:
        CifmError: The file cannot be read, or one of the two columns is missing.
    """
    table = _read_columns(path)
    ensembl = table.apply(are_ensembl_ids)
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
        # A set, as a gene may have several orthologs; those are dropped as ambiguous later.
        orthologs.setdefault(strip_version(name), set()).add(strip_version(gene))
    return orthologs


def _read_columns(path: Path) -> pd.DataFrame:
    """All fields of a table as text, columns numbered from 0."""
    with reading(path):
        # Not with pandas, which takes symbols such as NA for missing values.
        table = read_fields(path, _SEPARATORS)
    if not len(table):
        raise CifmError(f"{path}: an empty table", "write two columns, such as id and symbol")
    return table
