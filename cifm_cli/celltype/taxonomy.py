"""The tree of cell types: the parent of each type, and the tissues in which it occurs.

The packaged table `taxonomy.tsv` has the columns `cell_type`, `parent`, `tissues` (names separated by commas; empty for
types that occur in any tissue), `complete_in` (tissues in which every cell of the type is of a type below it) and `absent_in`
(tissues that lack a type which occurs in all others). A type outside the table is a root that occurs anywhere.
"""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import TYPE_CHECKING, Final

from cifm_cli.celltype.markers import normalise_name
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Mapping

UNASSIGNED: Final = "unassigned"
# Coarse groups of types, of which every type has one at most. Lymphoid and myeloid cells are told apart from other immune
# cells, because most tissues have many of both.
LINEAGES: Final = (
    "epithelial cell",
    "lymphoid cell",
    "myeloid cell",
    "immune cell",
    "stromal cell",
    "endothelial cell",
    "neural cell",
    "melanocyte",
    "erythroid cell",
    "megakaryocyte",
)


@dataclass(frozen=True)
class Taxonomy:
    """A tree of cell types."""

    parents: Mapping[str, str]  # type to its parent, which is empty for a root
    tissues: Mapping[str, tuple[str, ...]]  # type to the tissues in which it occurs, none meaning all
    complete_in: Mapping[str, tuple[str, ...]]  # type to the tissues whose cells of it are all of types below it
    absent_in: Mapping[str, tuple[str, ...]]  # type to the tissues that lack it

    def ancestors(self, name: str) -> tuple[str, ...]:
        """The type itself, then its parent, up to the root."""
        path = [name]
        while parent := self.parents.get(path[-1], ""):
            path.append(parent)
        return tuple(path)

    def spelling(self, name: str) -> str:
        """The type that a user means by a name such as `t cells`; the name itself for a type outside the table."""
        return self._spelling.get(normalise_name(name), name)

    @cached_property
    def _spelling(self) -> dict[str, str]:
        """Type by its name without case, punctuation and plural."""
        return {normalise_name(name): name for name in self.parents}

    def is_below(self, name: str, ancestor: str) -> bool:
        """Whether `ancestor` is the type or one above it."""
        return ancestor in self.ancestors(name)

    def are_related(self, first: str, second: str) -> bool:
        """Whether one of two types is above the other, or both are the same."""
        return self.is_below(first, second) or self.is_below(second, first)

    def lineage(self, name: str) -> str:
        """The lineage of a type; the root above it if it has none of `LINEAGES`."""
        path = self.ancestors(name)
        return next((lineage for lineage in LINEAGES if lineage in path), path[-1])

    def restriction(self, name: str) -> tuple[str, ...]:
        """The tissues to which the type, or one above it, is restricted; empty for a type of any tissue."""
        return next((self.tissues[ancestor] for ancestor in self.ancestors(name) if self.tissues.get(ancestor)), ())

    def is_possible(self, name: str, tissue: str | None) -> bool:
        """Whether a type occurs in a tissue; any type does where the tissue is unknown."""
        restriction = self.restriction(name)
        is_absent = any(tissue in self.absent_in.get(ancestor, ()) for ancestor in self.ancestors(name))
        return tissue is None or (not is_absent and (not restriction or tissue in restriction))

    @property
    def known_tissues(self) -> tuple[str, ...]:
        """Names of the tissues of the table, sorted; types of any tissue are possible in all of them."""
        named = {tissue for tissues in self.tissues.values() for tissue in tissues}
        return tuple(sorted(named | set(GENERAL_TISSUES)))


# Tissues without types of their own in the table.
GENERAL_TISSUES: Final = ("lymph node", "tonsil", "thymus", "muscle", "adipose tissue")
# Words of other descriptions of a tissue, to the tissue of the table.
SYNONYMS: Final = {
    "mammary": "breast",
    "pulmonary": "lung",
    "nsclc": "lung",
    "pancreatic": "pancreas",
    "pdac": "pancreas",
    "hepatic": "liver",
    "renal": "kidney",
    "cutaneous": "skin",
    "dermal": "skin",
    "melanoma": "skin",
    "colorectal": "colon",
    "rectum": "colon",
    "bowel": "colon",
    "intestine": "small intestine",
    "ileum": "small intestine",
    "duodenum": "small intestine",
    "gastric": "stomach",
    "cerebral": "brain",
    "cortex": "brain",
    "hippocampus": "brain",
    "glioblastoma": "brain",
    "glioma": "brain",
    "pbmc": "blood",
    "marrow": "bone marrow",
    "ovarian": "ovary",
    "prostatic": "prostate",
    "cardiac": "heart",
    "cervical": "cervix",
    "endometrium": "uterus",
    "oral": "head and neck",
    "tongue": "head and neck",
}


@cache
def load_taxonomy() -> Taxonomy:
    """Read the packaged table."""
    text = resources.files("cifm_cli.celltype").joinpath("taxonomy.tsv").read_text("utf8")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t"))

    def listed(column: str) -> dict[str, tuple[str, ...]]:
        """Type to the tissues of a column."""
        return {row["cell_type"]: tuple(filter(None, row[column].split(","))) for row in rows}

    parents = {row["cell_type"]: row["parent"] for row in rows}
    return Taxonomy(parents, listed("tissues"), listed("complete_in"), listed("absent_in"))


def find_tissue(description: str | None) -> str | None:
    """Find the tissue of the table that a free description names.

    Args:
        description: Such as `Breast cancer`, or None.

    Returns:
        The tissue, such as `breast`; None if the description names none or several.
    """
    words = f" {' '.join((description or '').lower().replace('-', ' ').replace('_', ' ').split())} "
    found = {tissue for tissue in load_taxonomy().known_tissues if f" {tissue} " in words}
    # `small intestine` names the intestine once, and `bone marrow` the marrow.
    found = found or {tissue for word, tissue in SYNONYMS.items() if f" {word} " in words}
    return found.pop() if len(found) == 1 else None


def require_tissue(description: str, option: str = "--tissue ") -> None:
    """Check that a description names a tissue of the table.

    Args:
        description: As a user typed it; empty for none.
        option: How the user named it, for the message.

    Raises:
        CifmError: It names no tissue, or several.
    """
    if description and find_tissue(description) is None:
        known = load_taxonomy().known_tissues
        # Compared without spaces: `bonemarrow`
        near = difflib.get_close_matches(
            description.lower().replace(" ", ""), [each.replace(" ", "") for each in known], n=1, cutoff=0.75
        )
        meant = next((f"did you mean {each}? " for each in known if each.replace(" ", "") in near), "")
        raise CifmError(f"{option}{description!r} names no tissue, or several", f"{meant}known: {', '.join(known)}")


def lineage_of(name: str) -> str:
    """The lineage of a type of the packaged table, `unassigned` for `unassigned`."""
    return UNASSIGNED if name == UNASSIGNED else load_taxonomy().lineage(name)
