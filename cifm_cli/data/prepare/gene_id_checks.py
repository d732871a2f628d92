"""Checks of the gene ids and symbols of a download against the packaged table."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from cifm_cli.data.ensembl import strip_version
from cifm_cli.data.prepare.gene_symbols import packaged_symbols
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    import pandas as pd

_SPECIES = len("ENSG0")  # letters of an id that distinguish human from mouse
_SPECIES_PREFIXES = ("ENSG0", "ENSMUSG0")
_MAX_MISTYPED = 2  # letters
# A file is refused if contradictions are more than half of the known pairs, and more than a few that may be chance.
_MAX_WRONG_FRACTION, _MAX_WRONG_BY_CHANCE = 0.5, 10
_MAX_UNKNOWN_FRACTION = 0.1  # if more ids are unknown, the table does not cover these genes


class _Contradiction(NamedTuple):
    """A feature whose symbol belongs to another gene."""

    gene: str
    symbol: str
    other: str


def gene_id_notes(features: pd.DataFrame, where: str) -> tuple[str, ...]:
    """Compare the ids of a download with its symbols.

    A renamed gene has a symbol or an id that the table lacks, which is no contradiction. A contradiction is an id that the
    table gives to another symbol, or an id that differs by one or two letters from the id of its symbol.

    Args:
        features: Columns id and symbol.
        where: The download and its matrix, for the message.

    Returns:
        A note if some pairs contradict the table, which is rare and harmless in genuine downloads, and a note if a few
        ids are not in the table.

    Raises:
        CifmError: Most pairs contradict the table, so ids and symbols do not belong together.
    """
    num_known, wrong = _contradictions(features)
    notes = _unknown_note([strip_version(gene) for gene in features["id"]])
    if not wrong:
        return notes
    example = f"{wrong[0].gene} is called {wrong[0].symbol}, as {wrong[0].other} is"
    if len(wrong) > max(_MAX_WRONG_BY_CHANCE, _MAX_WRONG_FRACTION * num_known):
        raise CifmError(
            f"{where}: ids and symbols of {len(wrong):,} genes do not belong together: {example}",
            "take the features as the instrument's software wrote them, or leave the symbols out",
        )
    return (
        *notes,
        f"{len(wrong):,} genes have the symbol of another gene ({example}): they were renamed, or the file is damaged",
    )


def _contradictions(features: pd.DataFrame) -> tuple[int, list[_Contradiction]]:
    """The number of features whose symbol is in the table, and those whose id contradicts it."""
    table, ids = packaged_symbols(), _packaged_ids()
    table = table[table["symbol"].isin(features["symbol"])]
    genes_of: dict[str, set[str]] = {}
    for gene, symbol in zip(table["id"], table["symbol"], strict=True):
        # A symbol may exist in both species, so the key includes the prefix of the id.
        genes_of.setdefault(gene[:_SPECIES] + symbol, set()).add(gene)
    num_known, wrong = 0, []
    for gene, symbol in zip(map(strip_version, features["id"]), features["symbol"], strict=True):
        known = genes_of.get(gene[:_SPECIES] + symbol, set())
        num_known += bool(known)
        # An id that the table lacks may be newer than the table, unless it resembles the right one.
        if known and gene not in known and (gene in ids or any(_is_mistyped(gene, other) for other in known)):
            wrong.append(_Contradiction(gene, symbol, min(known)))
    return num_known, wrong


def _unknown_note(genes: list[str]) -> tuple[str, ...]:
    """A note about human and mouse ids that are not in the table, if they are few."""
    known = _packaged_ids()
    covered = [gene for gene in genes if gene.startswith(_SPECIES_PREFIXES)]
    unknown = [gene for gene in covered if gene not in known]
    if not 0 < len(unknown) <= _MAX_UNKNOWN_FRACTION * len(covered):
        return ()
    several = "ids are" if len(unknown) > 1 else "id is"
    return (f"{len(unknown):,} {several} not in the packaged table, such as {unknown[0]}: retired, or damaged",)


@cache
def _packaged_ids() -> frozenset[str]:
    return frozenset(packaged_symbols()["id"])


def _is_mistyped(gene: str, other: str) -> bool:
    """Whether two ids differ by so few letters that one may be a damaged copy of the other."""
    return len(gene) == len(other) and sum(map(str.__ne__, gene, other)) <= _MAX_MISTYPED
