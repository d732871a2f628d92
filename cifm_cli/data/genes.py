"""Which features of a download are genes of the slide: Ensembl ids, symbols, what is dropped and what is summed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from cifm_cli.data.download import GENE_EXPRESSION, open_maybe_gzip, reading
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?(?:_PAR_Y)?")
_CONTROL_NAME = re.compile(
    r"(NegControl|NegPrb|Negative|SystemControl|FalseCode|BLANK[_-]|antisense_|Unassigned|Deprecated|Intergenic)",
    re.IGNORECASE,
)
_MITOCHONDRIAL_SYMBOL = re.compile(r"MT[-.]", re.IGNORECASE)
# The 37 genes of the human mitochondrial genome, for inputs without symbols.
_MITOCHONDRIAL_NUMBERS = (
    198695, 198712, 198727, 198763, 198786, 198804, 198840, 198886, 198888, 198899, 198938, 209082, 210049,
    210077, 210082, 210100, 210107, 210112, 210117, 210127, 210135, 210140, 210144, 210151, 210154, 210156,
    210164, 210174, 210176, 210184, 210191, 210194, 210195, 210196, 211459, 212907, 228253,
)  # fmt: skip
_MITOCHONDRIAL_IDS = frozenset(f"ENSG{number:011d}" for number in _MITOCHONDRIAL_NUMBERS)


@dataclass(frozen=True)
class GenePlan:
    """From F features of a download to G genes of the prepared slide.

    Args:
        ids: G Ensembl ids without version, each once, in the order of the download.
        symbols: G symbols.
        column: (F,) the gene that a feature counts for; -1 where it is dropped.
        dropped: Reason to names of features.
        merged: For each feature that was added to an earlier one, their id.
    """

    ids: tuple[str, ...]
    symbols: tuple[str, ...]
    column: NDArray[np.int64]
    dropped: dict[str, list[str]]
    merged: tuple[str, ...]

    def apply(self, counts: csr_matrix) -> csr_matrix:
        """Sum the features of each gene.

        Args:
            counts: (N, F).

        Returns:
            (N, G), columns sorted within rows, without stored zeros.
        """
        kept = self.column >= 0
        entries = kept[counts.indices]
        indptr = np.concatenate([[0], np.cumsum(entries)])[counts.indptr]
        parts = (counts.data[entries], self.column[counts.indices[entries]], indptr)
        result = csr_matrix(parts, shape=(counts.shape[0], len(self.ids)))
        result.sum_duplicates()
        result.eliminate_zeros()
        return result


def is_ensembl(names: pd.Series[str] | pd.Index[str]) -> NDArray[np.bool_]:
    """Which names are Ensembl gene ids of any species, with or without version."""
    return np.fromiter((_ENSEMBL.fullmatch(name) is not None for name in names), dtype=bool, count=len(names))


def plan_genes(features: pd.DataFrame, table: pd.DataFrame | None = None) -> GenePlan:
    """Decide what becomes of each feature.

    Args:
        features: F rows with columns id, symbol and feature_type.
        table: Columns id and symbol, to find the id of features that have none.

    Returns:
        The plan.

    Raises:
        CifmError: No gene is left.
    """
    lookup: dict[str, set[str]] = {}
    if table is not None:
        lookup = {str(symbol): set(group) for symbol, group in table.groupby("symbol")["id"]}
    ids: dict[str, str] = {}
    column = np.full(len(features), -1)
    positions: dict[str, int] = {}
    dropped: dict[str, list[str]] = {}
    merged: list[str] = []
    for row, (gene, symbol, kind) in enumerate(features[["id", "symbol", "feature_type"]].itertuples(index=False)):
        found, reason = _judge(gene, symbol, kind, lookup)
        if reason:
            dropped.setdefault(reason, []).append(symbol or gene)
            continue
        if found in positions:
            merged.append(found)
        column[row] = positions.setdefault(found, len(positions))
        ids.setdefault(found, symbol or found)
    if not ids:
        raise CifmError(
            f"none of the {len(features):,} features is a gene with an Ensembl id ({_summary(dropped)})",
            "give the ids in the input, or a table with columns id and symbol with --gene-table",
        )
    return GenePlan(tuple(ids), tuple(ids.values()), column, dropped, tuple(merged))


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
    with reading(path), open_maybe_gzip(path) as handle:
        table = pd.read_csv(handle, header=None, dtype=str, keep_default_na=False, sep=None, engine="python")
    shares = [is_ensembl(table[name]).mean() for name in table.columns]
    best = int(np.argmax(shares))
    if table.shape[1] < 2 or shares[best] < 0.5:
        raise CifmError(f"{path}: no column of Ensembl gene ids beside symbols", "write two columns, id and symbol")
    header = [str(name).strip().lower() for name in table.iloc[0]]
    others = [position for position in range(table.shape[1]) if position != best]
    named = [position for position in others if header[position] in {"symbol", "gene_symbol", "gene_name", "name"}]
    table = table[is_ensembl(table[best])]
    return pd.DataFrame(
        {"id": [strip_version(gene) for gene in table[best]], "symbol": table[(named or others)[0]].to_numpy()}
    )


def strip_version(gene: str) -> str:
    """An Ensembl id without version and pseudo-autosomal suffix; other names unchanged."""
    match = _ENSEMBL.fullmatch(gene)
    return match.group(1) if match else gene


def species_note(ids: tuple[str, ...]) -> str | None:
    """A warning where genes are not human; None where all are."""
    foreign = [gene for gene in ids if not gene.startswith("ENSG")]
    if not foreign:
        return None
    species = "mouse" if all(gene.startswith("ENSMUSG") for gene in foreign) else "of another species"
    return (
        f"{len(foreign):,} of {len(ids):,} genes are {species} (such as {foreign[0]}): "
        "models trained on human slides do not apply to them"
    )


def _judge(gene: str, symbol: str, kind: str, lookup: dict[str, set[str]]) -> tuple[str, str]:
    """Id of a feature, or the reason to drop it."""
    if kind and kind.lower() != GENE_EXPRESSION.lower():
        return "", kind
    if _CONTROL_NAME.match(symbol) or _CONTROL_NAME.match(gene):
        return "", "control by name"
    found = strip_version(gene)
    if found in _MITOCHONDRIAL_IDS or _MITOCHONDRIAL_SYMBOL.match(symbol or gene):
        return "", "mitochondrial"
    if _ENSEMBL.fullmatch(gene):
        return found, ""
    candidates = lookup.get(symbol) or lookup.get(symbol.replace(".", "-")) or set()
    if len(candidates) > 1:
        return "", "symbol of several genes"
    return (next(iter(candidates)), "") if candidates else ("", "no Ensembl id")


def _summary(dropped: dict[str, list[str]]) -> str:
    return (
        "; ".join(f"{reason}: {len(names):,}, such as {names[0]}" for reason, names in dropped.items()) or "no features"
    )
