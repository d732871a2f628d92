"""The tree of cell types, tissues, and the translation of labels."""

from __future__ import annotations

import pytest

from cifm_cli.celltype.label_names import type_of_label
from cifm_cli.celltype.markers import load_markers
from cifm_cli.celltype.profiles import load_profiles
from cifm_cli.celltype.taxonomy import find_tissue, lineage_of, load_taxonomy, require_tissue
from cifm_cli.errors import CifmError


def test_all_parents_markers_and_profiles_are_in_the_tree() -> None:
    taxonomy = load_taxonomy()
    assert {parent for parent in taxonomy.parents.values() if parent} <= set(taxonomy.parents)
    assert set(load_markers()) <= set(taxonomy.parents)
    assert set(load_profiles().types) <= set(taxonomy.parents)
    assert all(len(taxonomy.ancestors(name)) <= 5 for name in taxonomy.parents)


def test_lineage_and_relation_follow_the_tree() -> None:
    taxonomy = load_taxonomy()
    assert taxonomy.ancestors("CD8 T cell") == ("CD8 T cell", "T cell", "lymphoid cell", "immune cell")
    assert lineage_of("CD8 T cell") == "lymphoid cell"
    assert lineage_of("beta cell") == "epithelial cell"
    assert taxonomy.spelling("t_cells") == "T cell"
    assert taxonomy.spelling("a type of a user") == "a type of a user"
    assert lineage_of("a type of a user") == "a type of a user"
    assert lineage_of("unassigned") == "unassigned"
    assert taxonomy.are_related("T cell", "CD8 T cell")
    assert not taxonomy.are_related("CD4 T cell", "CD8 T cell")


@pytest.mark.parametrize(
    ("description", "tissue"),
    [
        ("Breast cancer", "breast"),
        ("human_LUNG", "lung"),
        ("NSCLC", "lung"),
        ("bone marrow", "bone marrow"),
        ("small intestine", "small intestine"),
        ("lymph node", "lymph node"),
        ("", None),
        (None, None),
        ("pancreas and liver", None),
        ("moon", None),
    ],
)
def test_tissues_are_found_in_descriptions(description: str | None, tissue: str | None) -> None:
    assert find_tissue(description) == tissue


def test_a_type_of_another_tissue_is_impossible() -> None:
    taxonomy = load_taxonomy()
    assert taxonomy.is_possible("beta cell", "pancreas")
    assert not taxonomy.is_possible("beta cell", "lung")
    assert taxonomy.is_possible("beta cell", None)
    assert taxonomy.is_possible("T cell", "lung")


def test_a_type_that_one_tissue_lacks_occurs_in_all_others() -> None:
    taxonomy = load_taxonomy()
    assert not taxonomy.is_possible("lymphatic endothelial cell", "bone marrow")
    assert taxonomy.is_possible("endothelial cell", "bone marrow")
    assert taxonomy.is_possible("lymphatic endothelial cell", "skin")
    assert taxonomy.is_possible("lymphatic endothelial cell", None)


def test_an_unknown_tissue_lists_the_known_ones() -> None:
    require_tissue("")
    with pytest.raises(CifmError, match="names no tissue") as error:
        require_tissue("moon")
    assert error.value.hint.startswith("known: ")
    assert "pancreas" in error.value.hint
    for typed, meant in (("bonemarrow", "bone marrow"), ("pancrea", "pancreas")):
        with pytest.raises(CifmError, match="names no tissue") as error:
            require_tissue(typed)
        assert error.value.hint.startswith(f"did you mean {meant}? known: ")


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("CD8+ Cytotoxic T", "CD8 T cell"),
        ("CD4+/CD25 T Reg", "regulatory T cell"),
        ("T cell regulatory", "regulatory T cell"),
        ("CD56+ NK", "NK cell"),
        ("CD19+ B", "B cell"),
        ("CD14+ Monocyte", "monocyte"),
        ("CD34+", "hematopoietic stem cell"),
        ("Dendritic", "dendritic cell"),
        ("cDC2", "dendritic cell"),
        ("pDC", "plasmacytoid dendritic cell"),
        ("Plasma cell dividing", "plasma cell"),
        ("Endothelial cell lymphatic", "lymphatic endothelial cell"),
        ("Endothelial cell venous", "endothelial cell"),
        ("Alveolar cell type 2", "alveolar type 2 cell"),
        ("ROS1+ healthy epithelial", "epithelial cell"),
        ("Tumor cells", "epithelial cell"),
        ("Fibroblast adventitial", "fibroblast"),
        ("Mesothelial", "mesothelial cell"),
        ("stromal dividing", "stromal cell"),
        ("myeloid dividing", "myeloid cell"),
        ("t_cell", "T cell"),
        ("cluster 7", None),
    ],
)
def test_labels_of_atlases_mean_types(label: str, name: str | None) -> None:
    assert type_of_label(label) == name
