"""Gene ids and symbols of a download, compared with the packaged table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cifm_cli.data.prepare.gene_id_checks import gene_id_notes
from cifm_cli.data.prepare.gene_symbols import packaged_symbols
from cifm_cli.errors import CifmError


def human_genes() -> pd.DataFrame:
    table = packaged_symbols()
    return table[table["id"].str.startswith("ENSG0")].drop_duplicates("symbol").iloc[1000:].reset_index(drop=True)


def features(change: dict[str, str] | None = None) -> pd.DataFrame:
    table = human_genes().iloc[:40]
    return table.assign(id=table["id"].replace(change or {}))


def test_matching_ids_and_symbols_give_no_notes() -> None:
    assert gene_id_notes(features(), "here") == ()
    renamed = features().assign(symbol=lambda table: table["symbol"].where(table.index != 3, "NAME-OF-NO-GENE"))
    assert gene_id_notes(renamed, "here") == ()
    assert gene_id_notes(features().assign(symbol=""), "here") == ()


def test_symbol_of_another_gene_gives_a_note() -> None:
    one, other, *_ = features()["id"]
    (note,) = gene_id_notes(features({one: other, other: one}), "here")
    assert note.startswith(f"2 genes have the symbol of another gene ({other} is called")


def test_mistyped_id_gives_a_note() -> None:
    one = features()["id"][0]
    notes = gene_id_notes(features({one: one[:-1] + chr(ord(one[-1]) ^ 1)}), "here")
    assert notes[-1].startswith("1 genes have")


def test_unknown_id_gives_a_note_if_the_others_are_known() -> None:
    one = features()["id"][0]
    (note,) = gene_id_notes(features({one: "ENSG00040170421"}).assign(symbol=""), "here")
    assert note.startswith("1 id is not in the packaged table, such as ENSG00040170421")
    unknown = {gene: f"ENSG0009{number:07d}" for number, gene in enumerate(features()["id"])}
    assert gene_id_notes(features(unknown).assign(symbol=""), "here") == (), "the table does not cover these genes"


def test_ids_shifted_against_symbols_are_refused() -> None:
    shifted = features().assign(id=lambda table: np.roll(table["id"], 1))
    with pytest.raises(CifmError, match="of 40 genes do not belong together"):
        gene_id_notes(shifted, "here")
