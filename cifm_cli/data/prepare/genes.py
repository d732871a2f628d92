"""Which features of a download are genes of the slide: Ensembl ids, symbols, what is dropped and what is summed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.data.readers.base import GENE_EXPRESSION
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?(?:_PAR_Y)?")
_CONTROL_NAME = re.compile(
    r"(NegControl|NegPrb|Negative|SystemControl|FalseCode|BLANK[_-]|antisense_|Unassigned|Deprecated|Intergenic)",
    re.IGNORECASE,
)
MITOCHONDRIAL = "mitochondrial"
SEVERAL_GENES, NO_ID = "symbol of several genes", "no Ensembl id"
SEVERAL_ORTHOLOGS, NO_ORTHOLOG = "several human orthologs", "no human ortholog"
_FEW = 0.5  # of the genes, below which the user is told
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
        mapped: Symbols of features whose id comes from a table.
    """

    ids: tuple[str, ...]
    symbols: tuple[str, ...]
    column: NDArray[np.int64]
    dropped: dict[str, list[str]]
    merged: tuple[str, ...]
    mapped: tuple[str, ...] = ()

    def apply(self, counts: csr_matrix) -> csr_matrix:
        """Sum the features of each gene.

        Args:
            counts: (N, F).

        Returns:
            (N, G) float64, in which no sum overflows; columns sorted within rows, without stored zeros.
        """
        kind = counts.indices.dtype  # SciPy goes through columns and rows of two widths once more
        entries = (self.column >= 0)[counts.indices]
        columns = self.column.astype(kind)[counts.indices[entries]]
        indptr = np.concatenate([[0], np.cumsum(entries)])[counts.indptr].astype(kind)
        parts = (counts.data[entries].astype(np.float64), columns, indptr)
        result = csr_matrix(parts, shape=(counts.shape[0], len(self.ids)))
        result.sum_duplicates()
        result.eliminate_zeros()
        return result


def is_ensembl(names: pd.Series[str] | pd.Index[str]) -> NDArray[np.bool_]:
    """Which names are Ensembl gene ids of any species, with or without version."""
    return np.fromiter((_ENSEMBL.fullmatch(name) is not None for name in names), dtype=bool, count=len(names))


def plan_genes(
    features: pd.DataFrame,
    table: pd.DataFrame | None = None,
    orthologs: dict[str, set[str]] | None = None,
    *,
    keep_mitochondrial: bool = False,
) -> GenePlan:
    """Decide what becomes of each feature.

    Args:
        features: F rows with columns id, symbol and feature_type.
        table: Columns id and symbol, to find the id of features that have none, and the symbol of ids.
        orthologs: Ids to human ids, where genes are to be mapped to another species.
        keep_mitochondrial: Whether genes of the mitochondrial genome stay.

    Returns:
        The plan.

    Raises:
        CifmError: No gene is left.
    """
    names = _Names(table)
    ids: dict[str, str] = {}
    column = np.full(len(features), -1)
    positions: dict[str, int] = {}
    dropped: dict[str, list[str]] = {}
    merged: list[str] = []
    mapped: list[str] = []
    for row, (gene, symbol, kind) in enumerate(features[["id", "symbol", "feature_type"]].itertuples(index=False)):
        known = symbol or names.symbols.get(strip_version(gene), "")
        found, reason = _judge(gene, known, kind, names)
        if reason == MITOCHONDRIAL and keep_mitochondrial and found:
            reason = ""
        if orthologs is not None and not reason:
            found, reason = _human(found, orthologs)
            known = names.symbols.get(found, known)
        if reason:
            dropped.setdefault(reason, []).append(known or gene)
            continue
        if found in positions:
            merged.append(found)
        if strip_version(gene) != found:
            mapped.append(known or gene)
        column[row] = positions.setdefault(found, len(positions))
        ids.setdefault(found, known or found)
    if not ids:
        raise CifmError(
            f"none of the {len(features):,} features is a gene with an Ensembl id ({_summary(dropped)})",
            "give the ids in the input, or a table with columns id and symbol with --gene-table",
        )
    return GenePlan(tuple(ids), tuple(ids.values()), column, dropped, tuple(merged), tuple(mapped))


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
        "models trained on human slides do not apply to them, unless mapped with --orthologs"
    )


def share_note(plan: GenePlan) -> str | None:
    """A warning where most genes could not be identified; None otherwise."""
    lost = sum(len(plan.dropped.get(reason, ())) for reason in (SEVERAL_GENES, NO_ID, SEVERAL_ORTHOLOGS, NO_ORTHOLOG))
    kept = int((plan.column >= 0).sum())
    if kept >= _FEW * (kept + lost):
        return None
    return (
        f"only {kept:,} of {kept + lost:,} genes ({kept / (kept + lost):.0%}) have an Ensembl id: "
        "are these gene symbols? a table of yours can name more of them (--gene-table)"
    )


class _Names:
    """Symbols of ids and ids of symbols, in the spelling of R too, which writes `-` as `.`.

    Args:
        table: Columns id and symbol; None for no names at all.
    """

    def __init__(self, table: pd.DataFrame | None) -> None:
        self.symbols: dict[str, str] = {}
        self._ids: dict[str, set[str]] = {}
        self._ids_in_r: dict[str, set[str]] = {}
        pairs = [] if table is None else zip(table["id"], table["symbol"], strict=True)
        for gene, symbol in pairs:
            self.symbols.setdefault(gene, symbol)
            self._ids.setdefault(symbol, set()).add(gene)
            self._ids_in_r.setdefault(symbol.replace("-", "."), set()).add(gene)

    def find(self, symbol: str) -> set[str]:
        """Ids of the genes that a symbol may mean."""
        return self._ids.get(symbol) or self._ids_in_r.get(symbol) or set()


def _judge(gene: str, symbol: str, kind: str, names: _Names) -> tuple[str, str]:
    """Id of a feature, and the reason to drop it where there is one."""
    if kind and kind.lower() != GENE_EXPRESSION.lower():
        return "", kind
    if _CONTROL_NAME.match(symbol) or _CONTROL_NAME.match(gene):
        return "", "control by name"
    candidates = {strip_version(gene)} if _ENSEMBL.fullmatch(gene) else names.find(symbol or gene) or names.find(gene)
    found = next(iter(candidates)) if len(candidates) == 1 else ""
    if found in _MITOCHONDRIAL_IDS or _MITOCHONDRIAL_SYMBOL.match(symbol or gene):
        return found, MITOCHONDRIAL
    return (found, "") if found else ("", SEVERAL_GENES if candidates else NO_ID)


def _human(gene: str, orthologs: dict[str, set[str]]) -> tuple[str, str]:
    """The human gene of a gene, or the reason to drop it."""
    targets = orthologs.get(gene, {gene} if gene.startswith("ENSG0") else set())
    return (next(iter(targets)), "") if len(targets) == 1 else ("", SEVERAL_ORTHOLOGS if targets else NO_ORTHOLOG)


def _summary(dropped: dict[str, list[str]]) -> str:
    return (
        "; ".join(f"{reason}: {len(names):,}, such as {names[0]}" for reason, names in dropped.items()) or "no features"
    )
