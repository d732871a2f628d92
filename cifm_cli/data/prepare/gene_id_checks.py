"""Whether the ids and the symbols of a download belong together, by the packaged table."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from cifm_cli.data.prepare.gene_symbols import packaged_symbols
from cifm_cli.data.prepare.genes import strip_version
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    import pandas as pd

_SPECIES = len("ENSG0")  # letters of an id that tell human from mouse
_SPECIES_PREFIXES = ("ENSG0", "ENSMUSG0")
_MISTYPED = 2  # letters
_MOST, _CHANCE = 0.5, 10
_FEW = 0.1  # of the ids; where more are unknown, the table is of other genes


class _Contradiction(NamedTuple):
    """A feature whose symbol is that of another gene."""

    gene: str
    symbol: str
    other: str


def name_notes(features: pd.DataFrame, where: str) -> tuple[str, ...]:
    """Hold the ids of a download against its symbols.

    A gene that was renamed has a symbol or an id that the table lacks, which says nothing. A contradiction is an id that
    the table gives to another symbol, or one a letter or two from the id of its symbol.

    Args:
        features: Columns id and symbol.
        where: The download and its matrix, for the message.

    Returns:
        A note where some contradict each other, which is seldom and harmless in genuine downloads, and one where a few
        ids are no gene's.

    Raises:
        CifmError: Most do: ids and symbols do not belong together.
    """
    table, ids = packaged_symbols(), _packaged_ids()
    table = table[table["symbol"].isin(features["symbol"])]
    genes_of: dict[str, set[str]] = {}
    for gene, symbol in zip(table["id"], table["symbol"], strict=True):
        genes_of.setdefault(gene[:_SPECIES] + symbol, set()).add(gene)
    num_known, wrong = 0, []
    for gene, symbol in zip(map(strip_version, features["id"]), features["symbol"], strict=True):
        known = genes_of.get(gene[:_SPECIES] + symbol, set())
        num_known += bool(known)
        if known and gene not in known and (gene in ids or any(_is_near(gene, one) for one in known)):
            wrong.append(_Contradiction(gene, symbol, min(known)))
    notes = _unknown_note([strip_version(gene) for gene in features["id"]], ids)
    if not wrong:
        return notes
    example = f"{wrong[0].gene} is called {wrong[0].symbol}, as {wrong[0].other} is"
    if len(wrong) > max(_CHANCE, _MOST * num_known):
        raise CifmError(
            f"{where}: ids and symbols do not belong together, of {len(wrong):,} genes: {example}",
            "take the features as the instrument's software wrote them, or leave the symbols out",
        )
    return (*notes, f"{len(wrong):,} genes bear the symbol of another ({example}): renamed since, or damaged?")


def _unknown_note(genes: list[str], known: frozenset[str]) -> tuple[str, ...]:
    """A note of ids that look like human or mouse genes and are none, where they are few."""
    ours = [gene for gene in genes if gene.startswith(_SPECIES_PREFIXES)]
    unknown = [gene for gene in ours if gene not in known]
    if not 0 < len(unknown) <= _FEW * len(ours):
        return ()
    return (f"ids of no gene in the packaged table: {len(unknown):,}, such as {unknown[0]}; retired, or damaged?",)


@cache
def _packaged_ids() -> frozenset[str]:
    return frozenset(packaged_symbols()["id"])


def _is_near(gene: str, other: str) -> bool:
    return len(gene) == len(other) and sum(map(str.__ne__, gene, other)) <= _MISTYPED
