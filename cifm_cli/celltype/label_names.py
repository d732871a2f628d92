"""Translation of the labels of other data sets into the types of the taxonomy.

Atlases name one type in many ways: `CD8+ Cytotoxic T`, `T cell CD8`, `Tc`. The patterns below are tried in order, so that
`plasmacytoid dendritic` comes before `dendritic`, and `plasma cell` after it.
"""

from __future__ import annotations

import re
from typing import Final

from cifm_cli.celltype.markers import normalise_name
from cifm_cli.celltype.taxonomy import UNASSIGNED, lineage_of, load_taxonomy

_PATTERNS: Final[tuple[tuple[str, str], ...]] = (
    (r"\bt ?reg|regulatory t|t cells? regulatory|\bfoxp3", "regulatory T cell"),
    (r"plasmacytoid|\bpdcs?\b", "plasmacytoid dendritic cell"),
    (r"plasma|antibody secreting", "plasma cell"),
    (r"\bcd8|cytotoxic t|t cells? cd8|\bmait\b", "CD8 T cell"),
    (r"\bcd4|helper t|t helper|t cells? cd4", "CD4 T cell"),
    (r"\bnkt\b|\bt cells?\b|\bt lympho|^t$|\bcd3[deg]?\b", "T cell"),
    (r"\bnk\b|natural killer", "NK cell"),
    (r"\bb cells?\b|\bb lympho|^b$|\bcd19|\bcd20|germinal", "B cell"),
    (r"\bmast", "mast cell"),
    (r"neutrophil", "neutrophil"),
    (r"macrophage|kupffer|microglia|\btams?\b|histiocyte", "macrophage"),
    (r"monocyte|\bcd14|\bcd16", "monocyte"),
    (r"dendritic|\bc?m?dcs?[0-9]?\b|langerhans", "dendritic cell"),
    (r"lymphoid|lymphocyte|\bilcs?\b", "lymphoid cell"),
    (r"myeloid|granulocyte|basophil|eosinophil", "myeloid cell"),
    (r"mesenchymal (stem|stromal)|\bmscs?\b", "stromal cell"),
    (r"\bhsp?cs?\b|\bcd34|stem cell|progenitor", "hematopoietic stem cell"),
    (r"erythro|red blood|\brbcs?\b", "erythroid cell"),
    (r"megakaryo|platelet", "megakaryocyte"),
    (r"immune|leu[ck]ocyte|\bcd45", "immune cell"),
    (r"lymph\w* (endo|vessel)|endothel\w* (cells? )?lymph|\blecs?\b", "lymphatic endothelial cell"),
    (r"endothel|vessel|vascular ec|\blsecs?\b|\becs?\b|capillary|venous|arterial", "endothelial cell"),
    (r"pericyte", "pericyte"),
    (r"smooth muscle|\bsmcs?\b|\bmuscle", "smooth muscle cell"),
    (r"mural|perivascular", "mural cell"),
    (r"fibroblast|\bcafs?\b|mesenchym|stellate", "fibroblast"),
    (r"adipo|fat cell", "adipocyte"),
    (r"oligodendro", "oligodendrocyte"),
    (r"astrocyt", "astrocyte"),
    (r"schwann|\bglia", "Schwann cell"),
    (r"neuron|excitatory|inhibitory", "neuron"),
    (r"melanocyt|melanoma", "melanocyte"),
    (r"alveolar (epithelial )?(cell )?(type )?(1|i)\b|\bat1\b|pneumocyte i\b", "alveolar type 1 cell"),
    (r"transitional club", "epithelial cell"),
    (r"alveolar (epithelial )?(cell )?(type )?(2|ii)\b|\bat2\b|pneumocyte ii\b", "alveolar type 2 cell"),
    (r"alveolar|pneumocyte", "alveolar cell"),
    (r"ciliated", "ciliated cell"),
    (r"\bclub|clara", "club cell"),
    (r"goblet", "goblet cell"),
    (r"enterocyte|colonocyte", "enterocyte"),
    (r"hepatocyte|^hep\b", "hepatocyte"),
    (r"acinar", "acinar cell"),
    (r"duct|cholangiocyte", "ductal cell"),
    (r"\balpha\b|pancreatic a\b", "alpha cell"),
    (r"\bbeta\b|type b pancreatic", "beta cell"),
    (r"\bdelta\b|pancreatic d\b", "delta cell"),
    (r"islet|endocrine", "islet cell"),
    (r"myoepithel|\bbasal", "basal epithelial cell"),
    (r"luminal", "luminal epithelial cell"),
    (r"keratinocyt", "keratinocyte"),
    (r"tubul|nephron", "kidney tubule cell"),
    (r"mesotheli", "mesothelial cell"),
    (r"epitheli|tumou?r|cancer|carcinoma|malignant|keratin|breast gland|secretory", "epithelial cell"),
    (r"strom|connective", "stromal cell"),
    (r"neural", "neural cell"),
)


def type_of_label(label: str) -> str | None:
    """Find the type of the taxonomy that a label means.

    Args:
        label: A name of a cell type, as in an atlas.

    Returns:
        The type; None if the label names none.
    """
    own = {normalise_name(name): name for name in load_taxonomy().parents}
    if normalise_name(label) in own:
        return own[normalise_name(label)]
    words = re.sub(r"[^a-z0-9]+", " ", label.lower()).strip()
    return next((name for pattern, name in _PATTERNS if re.search(pattern, words)), None)


def lineage_of_label(label: str) -> str:
    """The lineage of the type that a label means; the label itself if it names none."""
    return UNASSIGNED if label == UNASSIGNED else lineage_of(type_of_label(label) or label)
