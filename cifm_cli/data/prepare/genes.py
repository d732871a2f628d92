"""Which features of a download become genes of the slide, under which Ensembl id, and which are dropped or summed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.data.ensembl import is_ensembl_id, strip_version
from cifm_cli.data.readers.base import GENE_EXPRESSION
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

# Names of controls in the panels of several instruments, for downloads that give no feature types.
_CONTROL_NAME = re.compile(
    r"(NegControl|NegPrb|Negative|SystemControl|FalseCode|BLANK[_-]|antisense_|Unassigned|Deprecated|Intergenic)",
    re.IGNORECASE,
)
# Reasons to drop a feature; they appear in reports.
MITOCHONDRIAL = "mitochondrial"
CONTROL = "control by name"
SEVERAL_GENES, NO_ID = "symbol of several genes", "no Ensembl id"
SEVERAL_ORTHOLOGS, NO_ORTHOLOG = "several human orthologs", "no human ortholog"
_MIN_IDENTIFIED = 0.5  # fraction of the genes below which the user is warned
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
    """The mapping from F features of a download to G genes of the prepared slide."""

    ids: tuple[str, ...]  # G Ensembl ids without version, all distinct, in the order of the download
    symbols: tuple[str, ...]  # G symbols
    column: NDArray[np.int64]  # (F,) the gene that a feature is counted for; -1 if it is dropped
    dropped: dict[str, list[str]]  # reason to names of the features that are dropped for it
    merged: tuple[str, ...]  # the id of each feature that is added to an earlier feature
    mapped: tuple[str, ...] = ()  # symbols of the features whose id comes from a table

    def apply(self, counts: csr_matrix) -> csr_matrix:
        """Sum the features of each gene.

        Args:
            counts: (N, F).

        Returns:
            (N, G) float64, in which no sum overflows; columns sorted within rows, without stored zeros.
        """
        # SciPy copies a matrix whose columns and row pointers have different widths.
        index_type = counts.indices.dtype
        is_counted = (self.column >= 0)[counts.indices]
        columns = self.column.astype(index_type)[counts.indices[is_counted]]
        indptr = np.concatenate([[0], np.cumsum(is_counted)])[counts.indptr].astype(index_type)
        # Sums of several large counts in double precision.
        csr_arrays = (counts.data[is_counted].astype(np.float64), columns, indptr)
        result = csr_matrix(csr_arrays, shape=(counts.shape[0], len(self.ids)))
        # Adds up the features of one gene in a cell, and sorts the columns.
        result.sum_duplicates()
        result.eliminate_zeros()
        return result


def plan_genes(
    features: pd.DataFrame,
    table: pd.DataFrame | None = None,
    orthologs: dict[str, set[str]] | None = None,
    *,
    keep_mitochondrial: bool = False,
    where: str = "",
) -> GenePlan:
    """Decide for each feature which gene it is counted for, or why it is dropped.

    Args:
        features: F rows with columns id, symbol and feature_type.
        table: Columns id and symbol, from which missing ids and symbols are taken.
        orthologs: Ids to human ids, to map the genes of another species.
        keep_mitochondrial: Whether to keep the genes of the mitochondrial genome.
        where: The download and `: `, for the message.

    Returns:
        The plan.

    Raises:
        CifmError: No feature is left.
    """
    names = _Names(table)
    symbols: dict[str, str] = {}  # of each gene, in the order of the download
    column = np.full(len(features), -1)
    positions: dict[str, int] = {}
    dropped: dict[str, list[str]] = {}
    merged: list[str] = []
    mapped: list[str] = []
    for row, (name, given_symbol, kind) in enumerate(
        features[["id", "symbol", "feature_type"]].itertuples(index=False)
    ):
        # The symbol of the download takes precedence over that of the table.
        symbol = given_symbol or names.symbols.get(strip_version(name), "")
        gene, reason = _identify(name, symbol, kind, names)
        # A mitochondrial gene that is only known by its symbol has no id under which it could be kept.
        if reason == MITOCHONDRIAL and keep_mitochondrial and gene:
            reason = ""
        if orthologs is not None and not reason:
            gene, reason = _human_ortholog(gene, orthologs)
            symbol = names.symbols.get(gene, symbol)
        if reason:
            dropped.setdefault(reason, []).append(symbol or name)
            continue
        # Several probes, or several versions of an id, may belong to one gene.
        if gene in positions:
            merged.append(gene)
        if strip_version(name) != gene:
            mapped.append(symbol or name)
        column[row] = positions.setdefault(gene, len(positions))
        symbols.setdefault(gene, symbol or gene)
    if not symbols:
        raise CifmError(
            f"{where}none of the {len(features):,} features is a gene with an Ensembl id ({_describe_dropped(dropped)})",
            "give the ids in the input, or a table with columns id and symbol with --gene-table",
        )
    return GenePlan(tuple(symbols), tuple(symbols.values()), column, dropped, tuple(merged), tuple(mapped))


def species_note(ids: tuple[str, ...]) -> str | None:
    """A warning if some of G gene ids are not human; None otherwise."""
    foreign = [gene for gene in ids if not gene.startswith("ENSG")]
    if not foreign:
        return None
    species = "mouse" if all(gene.startswith("ENSMUSG") for gene in foreign) else "of another species"
    return (
        f"{len(foreign):,} of {len(ids):,} genes are {species} (such as {foreign[0]}): "
        "models trained on human slides do not apply to them, unless they are mapped with --orthologs"
    )


def unidentified_note(plan: GenePlan) -> str | None:
    """A warning if most genes could not be identified; None otherwise."""
    # Controls and mitochondrial genes are dropped on purpose, and do not count.
    reasons = (SEVERAL_GENES, NO_ID, SEVERAL_ORTHOLOGS, NO_ORTHOLOG)
    num_lost = sum(len(plan.dropped.get(reason, ())) for reason in reasons)
    num_kept = int((plan.column >= 0).sum())
    total = num_kept + num_lost
    if num_kept >= _MIN_IDENTIFIED * total:
        return None
    return (
        f"only {num_kept:,} of {total:,} genes ({num_kept / total:.0%}) have an Ensembl id; "
        "if their names are symbols that the packaged table lacks, give a table with --gene-table"
    )


class _Names:
    """Symbols by id and ids by symbol; symbols also in the spelling of R, which replaces `-` by `.`.

    Args:
        table: Columns id and symbol; None for no names.
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

    def ids(self, symbol: str) -> set[str]:
        """Ids of the genes that a symbol may mean."""
        return self._ids.get(symbol) or self._ids_in_r.get(symbol) or set()


def _identify(name: str, symbol: str, kind: str, names: _Names) -> tuple[str, str]:
    """Ensembl id of a feature, and the reason to drop it; either may be empty."""
    # The type that the file declares is certain, so it is checked before names.
    if kind and kind.lower() != GENE_EXPRESSION.lower():
        return "", kind
    # Before the id is looked up, as some controls are named after a gene.
    if _CONTROL_NAME.match(symbol) or _CONTROL_NAME.match(name):
        return "", CONTROL
    candidates = {strip_version(name)} if is_ensembl_id(name) else names.ids(symbol or name) or names.ids(name)
    # A symbol of several genes is not resolved by a guess: a wrong gene would remain unnoticed.
    gene = next(iter(candidates)) if len(candidates) == 1 else ""
    # Checked after the id is known: inputs without symbols are recognised by id, inputs without ids by symbol.
    if gene in _MITOCHONDRIAL_IDS or _MITOCHONDRIAL_SYMBOL.match(symbol or name):
        return gene, MITOCHONDRIAL
    return (gene, "") if gene else ("", SEVERAL_GENES if candidates else NO_ID)


def _human_ortholog(gene: str, orthologs: dict[str, set[str]]) -> tuple[str, str]:
    """The human gene of a gene, and the reason to drop it; one of them is empty. A human gene is its own ortholog."""
    targets = orthologs.get(gene, {gene} if gene.startswith("ENSG0") else set())
    return (next(iter(targets)), "") if len(targets) == 1 else ("", SEVERAL_ORTHOLOGS if targets else NO_ORTHOLOG)


def _describe_dropped(dropped: dict[str, list[str]]) -> str:
    reasons = [f"{reason}: {len(names):,}, such as {names[0]}" for reason, names in dropped.items()]
    return "; ".join(reasons) or "no features"
