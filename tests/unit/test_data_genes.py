"""The gene of each feature, and features that are summed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.data.ensembl import strip_version
from cifm_cli.data.prepare.gene_symbols import packaged_symbols, read_gene_table, read_orthologs, symbols_for
from cifm_cli.data.prepare.genes import plan_genes, species_note, unidentified_note
from cifm_cli.errors import CifmError

GENE = "Gene Expression"


def features(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["id", "symbol", "feature_type"])


def test_each_feature_is_kept_or_dropped_for_a_reason() -> None:
    plan = plan_genes(
        features(
            ("ENSG00000010610.5", "CD4", GENE),
            ("ENSG00000198888", "MT-ND1", GENE),
            ("NegControlProbe_00042", "NegControlProbe_00042", "Negative Control Probe"),
            ("ENSG00000153563", "CD8A", "gene expression"),
            ("BLANK_0006", "BLANK_0006", GENE),
            ("CD19", "CD19", GENE),
            ("ENSG00000010610", "CD4", GENE),
            ("ENSG00000000001", "Blanketin", ""),
        )
    )
    assert plan.ids == ("ENSG00000010610", "ENSG00000153563", "ENSG00000000001")
    assert plan.symbols == ("CD4", "CD8A", "Blanketin")
    assert plan.column.tolist() == [0, -1, -1, 1, -1, -1, 0, 2]
    assert plan.merged == ("ENSG00000010610",)
    assert plan.dropped == {
        "mitochondrial": ["MT-ND1"],
        "Negative Control Probe": ["NegControlProbe_00042"],
        "control by name": ["BLANK_0006"],
        "no Ensembl id": ["CD19"],
    }


@pytest.mark.parametrize("symbol", ["MT-CO1", "mt-Co1", "MT.CO1", ""])
def test_mitochondrial_genes_are_recognised_by_symbol_or_id(symbol: str) -> None:
    plan = plan_genes(features(("ENSG00000198804", symbol, GENE), ("ENSG00000010610", "CD4", GENE)))
    assert list(plan.dropped) == ["mitochondrial"]


def test_genes_with_names_similar_to_controls_are_kept() -> None:
    rows = [
        (f"ENSG{number:011d}", name, GENE) for number, name in enumerate(["MTOR", "MT1A", "NEGR1", "INTS1", "DEPDC1"])
    ]
    assert len(plan_genes(features(*rows)).ids) == 5


def test_counts_of_one_gene_are_summed() -> None:
    plan = plan_genes(
        features(
            ("ENSG00000000001.1", "A", GENE),
            ("X", "X", GENE),
            ("ENSG00000000002", "B", GENE),
            ("ENSG00000000001.2", "A", GENE),
        )
    )
    counts = csr_matrix(np.array([[1, 9, 2, 3], [0, 9, 0, 0], [0, 0, 5, 7]]))
    assert plan.apply(counts).toarray().tolist() == [[4, 2], [0, 0], [7, 5]]
    assert plan.apply(counts).has_sorted_indices


def test_stored_zeros_are_not_counts() -> None:
    stored = csr_matrix((np.array([0, 3]), np.array([0, 1]), np.array([0, 2])), shape=(1, 2))
    plan = plan_genes(features(("ENSG00000000001", "A", GENE), ("ENSG00000000002", "B", GENE)))
    assert plan.apply(stored).nnz == 1


@pytest.mark.parametrize(
    ("given", "bare"),
    [
        ("ENSG00000141510.18", "ENSG00000141510"),
        ("ENSG00000182378.14_PAR_Y", "ENSG00000182378"),
        ("ENSMUSG00000059552", "ENSMUSG00000059552"),
        ("TP53.1", "TP53.1"),
        ("ENST00000269305.9", "ENST00000269305.9"),
    ],
)
def test_strip_version(given: str, bare: str) -> None:
    assert strip_version(given) == bare


def test_error_without_genes_lists_the_reasons() -> None:
    with pytest.raises(CifmError, match=r"none of the 2 features .*no Ensembl id: 2, such as CD4") as caught:
        plan_genes(features(("CD4", "CD4", GENE), ("CD8A", "CD8A", GENE)))
    assert "--gene-table" in caught.value.hint
    with pytest.raises(CifmError, match="no features"):
        plan_genes(features())


@pytest.mark.parametrize(
    "text",
    [
        "ENSG00000010610.3,CD4\nENSG00000153563,CD8A\nENSG00000000001,TWICE\nENSG00000000002,TWICE\nENSG00000000003,HLA-DRA\n",
        "symbol\tbiotype\tgene\nCD4\t-\tENSG00000010610\nCD8A\t-\tENSG00000153563\nTWICE\t-\tENSG00000000001\nTWICE\t-\tENSG00000000002\nHLA-DRA\t-\tENSG00000000003\n",
    ],
)
def test_symbols_are_mapped_by_a_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "genes.csv").write_text(text)
    table = read_gene_table(tmp_path / "genes.csv")
    plan = plan_genes(features(*((name, name, GENE) for name in ("CD4", "TWICE", "HLA.DRA", "NOSUCH"))), table)
    assert plan.ids == ("ENSG00000010610", "ENSG00000000003")
    assert plan.dropped == {"symbol of several genes": ["TWICE"], "no Ensembl id": ["NOSUCH"]}


def test_gene_table_without_ids_is_refused(tmp_path: Path) -> None:
    (tmp_path / "genes.csv").write_text("CD4,CD8A\nCD3E,CD3D\n")
    with pytest.raises(CifmError, match="no column of Ensembl gene ids"):
        read_gene_table(tmp_path / "genes.csv")
    with pytest.raises(CifmError, match="no such file"):
        read_gene_table(tmp_path / "absent.csv")


def test_species_note_names_the_species() -> None:
    assert species_note(("ENSG00000000001",)) is None
    mouse = species_note(("ENSMUSG00000000001", "ENSMUSG00000000002"))
    assert mouse is not None
    assert mouse.startswith("2 of 2 genes are mouse")
    other = species_note(("ENSG00000000001", "ENSDARG00000000002"))
    assert other is not None
    assert "1 of 2 genes are of another species" in other


def test_packaged_table_has_human_and_mouse_genes() -> None:
    table = packaged_symbols()
    known = {
        "CD4": "ENSG00000010610",
        "Cd4": "ENSMUSG00000023274",
        "PLCXD1": "ENSG00000182378",  # pseudo-autosomal: the copy on X
        "TP73-AS1": "ENSG00000227372",  # a retired symbol
    }
    assert dict(table.loc[table["symbol"].isin(known), ["symbol", "id"]].to_numpy().tolist()) == known
    assert table["symbol"].isin(known).sum() == len(known)
    assert table["id"].str.fullmatch(r"ENS(MUS)?G\d{11}").all()
    assert len(table) > 90_000


@pytest.mark.parametrize(
    ("symbols", "ids"),
    [
        (
            ["CD4", "HLA.DRA", "NKX2.1", "F2"],
            ["ENSG00000010610", "ENSG00000204287", "ENSG00000136352", "ENSG00000180210"],
        ),
        (["Cd4", "H2.Aa", "F2"], ["ENSMUSG00000023274", "ENSMUSG00000036594", "ENSMUSG00000027249"]),
    ],
)
def test_symbols_match_within_the_species_and_in_the_spelling_of_r(symbols: list[str], ids: list[str]) -> None:
    rows = features(*((symbol, symbol, GENE) for symbol in symbols))
    plan = plan_genes(rows, symbols_for(rows, None))
    assert plan.ids == tuple(ids)
    assert plan.mapped == tuple(symbols)


def test_ids_get_symbols_and_mouse_mitochondrial_genes_are_recognised() -> None:
    rows = features(("ENSMUSG00000023274.15", "", GENE), ("ENSMUSG00000064341", "", GENE))  # Cd4, mt-Nd1
    plan = plan_genes(rows, symbols_for(rows, None))
    assert plan.symbols == ("Cd4",)
    assert plan.dropped == {"mitochondrial": ["mt-Nd1"]}


def test_packaged_table_is_not_read_if_ids_and_symbols_are_complete() -> None:
    assert symbols_for(features(("ENSG00000010610", "CD4", GENE)), None).empty


def test_mitochondrial_genes_can_be_kept() -> None:
    rows = features(("ENSG00000198804", "MT-CO1", GENE), ("ENSG00000010610", "CD4", GENE))
    assert plan_genes(rows, keep_mitochondrial=True).symbols == ("MT-CO1", "CD4")


@pytest.mark.parametrize("header", ["", "Gene stable ID,Human gene stable ID,Human homology type\n"])
def test_orthologs_map_mouse_genes_to_human(tmp_path: Path, header: str) -> None:
    #  1 -> A   2 -> A (summed)   3 -> B and C (ambiguous)   4 -> nothing
    pairs = [(1, 11), (2, 11), (3, 12), (3, 13)]
    lines = [f"ENSMUSG{mouse:011d}.2,ENSG{human:011d},ortholog" for mouse, human in pairs]
    (tmp_path / "pairs.csv").write_text(header + "\n".join([*lines, f"ENSMUSG{4:011d},,"]))
    orthologs = read_orthologs(tmp_path / "pairs.csv")
    rows = features(*((f"ENSMUSG{mouse:011d}", f"Gene{mouse}", GENE) for mouse in (1, 2, 3, 4)))
    plan = plan_genes(rows, None, orthologs)
    assert plan.ids == ("ENSG00000000011",)
    assert plan.column.tolist() == [0, 0, -1, -1]
    assert plan.dropped == {"several human orthologs": ["Gene3"], "no human ortholog": ["Gene4"]}
    assert species_note(plan.ids) is None


def test_ortholog_table_of_one_species_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("ENSG00000000001,ENSG00000000002\n")
    with pytest.raises(CifmError, match="no column of human Ensembl ids beside one of another species"):
        read_orthologs(tmp_path / "pairs.csv")


def test_note_gives_the_fraction_of_identified_genes() -> None:
    def plan(num_unknown: int) -> str | None:
        unknown = [(f"x{number}", f"x{number}", GENE) for number in range(num_unknown)]
        return unidentified_note(plan_genes(features(("ENSG00000010610", "CD4", GENE), *unknown)))

    assert plan(1) is None
    note = plan(3)
    assert note is not None
    assert "only 1 of 4 genes (25%)" in note
