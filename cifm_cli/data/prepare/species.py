"""Genes of several species in one download: the prefixes of references for two species, and which species is kept.

Xenografts, of human tumours in mice, are aligned to both genomes. The reference then names genes `GRCh38_EPCAM` and
`mm10___Cd3e`, and so do their ids.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.data.ensembl import is_ensembl_id
from cifm_cli.data.readers.base import GENE_EXPRESSION

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

HUMAN, MOUSE = "human", "mouse"
# Genome builds as references of 10x Genomics, Ensembl and UCSC name them.
_BUILDS = {
    HUMAN: r"GRCh\d+|hg\d+|human|Homo_sapiens|hsapiens|T2T|CHM13",
    MOUSE: r"GRCm\d+|mm\d+|mouse|Mus_musculus|mmusculus",
    "rat": r"Rnor|mRatBN\d+|GRCr\d+|rn\d|rat",
    "pig": r"Sscrofa|susScr\d+",
    "macaque": r"Mmul|rheMac\d+",
    "zebrafish": r"GRCz\d+|danRer\d+",
    "fly": r"BDGP\d+|dm\d",
}
# The name of the build may continue (`mm10-2020-A`, `GRCh38premrna`), and is padded to the length of the other one with
# underscores, for which Seurat writes dashes.
_PREFIX = re.compile(
    "(?:" + "|".join(f"(?P<{species}>{builds})" for species, builds in _BUILDS.items()) + r")"
    r"(?:[-._](?:\d{4}-[A-Z]|p\d+|v\d+))?(?:[-_.]?pre-?m?rna)?(?P<padding>[_-]+)(?P<gene>[^_-].*)",
    re.IGNORECASE,
)
_BY_ID = (("ENSG0", HUMAN), ("ENSMUSG", MOUSE), ("ENSRNOG", "rat"), ("ENSSSCG", "pig"), ("ENSMMUG", "macaque"))
_MIN_SHARE = 0.1  # of the genes; less than this are single genes of another species, such as transgenes
_MOSTLY = 0.5  # of the counts of a cell
OTHER_FRACTION = "other_species_fraction"  # column of `obs` in a slide from a mixture


@dataclass(frozen=True)
class Species:
    """The species of F features, and the one whose genes are kept."""

    genes: pd.DataFrame  # F rows as in the download, without the prefixes of genomes in id and symbol
    of_feature: NDArray[np.object_]  # F names of species; empty where it is not known
    kept: str  # the species whose genes are kept; empty if nothing is dropped

    @property
    def other(self) -> NDArray[np.bool_]:
        """(F,) whether a feature is a gene of a species that is not kept."""
        if not self.kept:
            return np.zeros(len(self.of_feature), dtype=bool)
        return np.asarray((self.of_feature != self.kept) & (self.of_feature != ""), dtype=bool)

    def marked(self) -> pd.DataFrame:
        """The genes for `plan_genes`: those of other species have a type of their own, for which they are dropped."""
        kinds = [f"{species} gene" for species in self.of_feature]
        return self.genes.assign(feature_type=np.where(self.other, kinds, self.genes["feature_type"]))

    @property
    def others(self) -> str:
        """Names of the species that are not kept, as in `mouse and rat`."""
        return " and ".join(sorted(set(self.of_feature[self.other])))


def find_species(features: pd.DataFrame, *, keep_all: bool = False) -> Species:
    """Find the species of each feature by the prefix of its genome or by its Ensembl id.

    The genes of one species are kept: of human, unless only few genes are, else of the one with the most genes. A few
    genes of another species in a download without prefixes, such as transgenes, are no mixture.

    Args:
        features: F rows with columns id, symbol and feature_type, and genome if the download declares it.
        keep_all: Whether to keep the genes of every species, such as to map them to human ones.

    Returns:
        The species.
    """
    ids, symbols = features["id"].tolist(), features["symbol"].tolist()
    genomes = features["genome"].tolist() if "genome" in features else [""] * len(features)
    matches = [(_match(name), _match(symbol)) for name, symbol in zip(ids, symbols, strict=True)]
    has_prefixes = any(any(pair) for pair in matches)
    if has_prefixes:
        stripped = {
            column: [match["gene"] if match else name for match, name in zip(found, names, strict=True)]
            for column, names, found in zip(("id", "symbol"), (ids, symbols), zip(*matches, strict=True), strict=True)
        }
        features = features.assign(**stripped)
    is_gene = features["feature_type"].str.lower().isin(["", GENE_EXPRESSION.lower()])
    found = [
        _species(name, pair, genome) if counted else ""
        for name, pair, genome, counted in zip(features["id"], matches, genomes, is_gene, strict=True)
    ]
    of_feature = np.array(found, dtype=object)
    num_genes = Counter(filter(None, found))
    kept = "" if keep_all or len(num_genes) < 2 else _choose(num_genes)
    if kept and not has_prefixes and num_genes[kept] > (1 - _MIN_SHARE) * num_genes.total():
        kept = ""
    return Species(features, of_feature, kept)


class OtherSpeciesCounts:
    """The fraction of the counts of each cell that are of genes of a species that is not kept.

    Args:
        species: The species of F features.
        num_cells: N.
    """

    def __init__(self, species: Species, num_cells: int) -> None:
        self._species = species
        self._other = species.other.astype(np.float64)
        self._known = (species.of_feature != "").astype(np.float64)
        self._fraction = np.zeros(num_cells)  # zero for a cell without counts

    def add(self, first: int, block: csr_matrix) -> None:
        """Count the cells `first`, `first + 1`, ...

        Args:
            first: Row of the first cell of the block.
            block: (n, F) counts.
        """
        if self._species.kept:
            total = np.maximum(block @ self._known, 1.0)
            self._fraction[first : first + block.shape[0]] = (block @ self._other) / total

    def annotate(self, obs: pd.DataFrame) -> pd.DataFrame:
        """Add the column `OTHER_FRACTION` to the cells of a mixture.

        Args:
            obs: N rows.

        Returns:
            The rows with the column; unchanged if the download is no mixture.
        """
        return obs.assign(**{OTHER_FRACTION: self._fraction}) if self._species.kept else obs


def mixture_note(species: Species) -> str | None:
    """A note that the genes of other species are dropped; None if there are none."""
    if not species.kept:
        return None
    return f"a mixture of species: the genes of {species.kept} are kept, and {species.other.sum():,} of {species.others} are dropped"


def foreign_cells_warning(obs: pd.DataFrame) -> str | None:
    """A warning if cells have most of their counts in genes of another species; None otherwise.

    Args:
        obs: The cells of the slide, with the column `OTHER_FRACTION` if it is from a mixture.

    Returns:
        The warning.
    """
    if (num_foreign := num_foreign_cells(obs)) == 0:
        return None
    return (
        f"{num_foreign:,} of {len(obs):,} cells have most of their counts in genes of another species, and may be cells of "
        f"that species: leave them out of what you conclude; a prepared slide has the fraction of these counts in "
        f"obs['{OTHER_FRACTION}']"
    )


def num_foreign_cells(obs: pd.DataFrame) -> int:
    """Number of cells with most of their counts in genes of another species. Argument as `foreign_cells_warning`."""
    return int((obs[OTHER_FRACTION] > _MOSTLY).sum()) if OTHER_FRACTION in obs else 0


def _match(name: str) -> re.Match[str] | None:
    return _PREFIX.fullmatch(name)


def _species(name: str, matches: tuple[re.Match[str] | None, ...], genome: str) -> str:
    """The species of a gene: by the letters of its id, the prefix of its names, or the genome that the file declares."""
    if is_ensembl_id(name) and (by_id := next((species for start, species in _BY_ID if name.startswith(start)), "")):
        return by_id
    by_prefix = [species for match in filter(None, matches) for species in _BUILDS if match[species]]
    return by_prefix[0] if by_prefix else _of_genome(genome)


@cache
def _of_genome(genome: str) -> str:
    """The species of a genome build; empty if it is not known."""
    return next((species for species, builds in _BUILDS.items() if re.match(builds, genome, re.IGNORECASE)), "")


def _choose(num_genes: Counter[str]) -> str:
    # Models are for human slides. Few human genes among those of another species are transgenes.
    if num_genes[HUMAN] >= _MIN_SHARE * num_genes.total():
        return HUMAN
    return num_genes.most_common(1)[0][0]
