"""Names of all slots in files, one constant each, with (shape) | meaning.

N cells, G genes, D features. AnnData slots follow scverse conventions.
"""

from __future__ import annotations

from typing import Final

# Prepared slide (.h5ad), cells in Hilbert order --------------------------------------------------------------------
SPATIAL: Final = "spatial"  # obsm (N, 2) float64 | cell centres, micrometres
TOTAL_COUNTS: Final = "total_counts"  # obs (N,) | sum of the counts over the genes of the slide
NUM_GENES: Final = "n_genes_by_counts"  # obs (N,) | number of genes with a count
SPLIT: Final = "split"  # obs (N,) categorical | train, validation, test or buffer
DOWNLOAD_ROW: Final = "download_row"  # obs (N,) int64 | row of the cell in the download, before filters and sorting
CHECKSUM: Final = "cifm_checksum"  # obs (N,) uint64 | checksum of the counts of the cell, see `data/checksums.py`
CLUSTER: Final = "cluster"  # obs (N,) categorical | graph clusters of the download, if it has any
SYMBOL: Final = "symbol"  # var (G,) | gene symbol; var_names are Ensembl ids without version
CIFM: Final = "cifm"  # uns | dictionary with the keys below

# uns["cifm"] -------------------------------------------------------------------------------------------------------
FORMAT: Final = "format"  # int | format number of the prepared slide
PLATFORM: Final = "platform"  # str | visium, visium_hd, xenium, anndata, spatialdata, table
RADIUS_UM: Final = "radius_um"  # float | radius of the graph, micrometres
TISSUE: Final = "tissue"  # str | free text, may be empty
CONDITION: Final = "condition"  # str | free text, may be empty
SAMPLE: Final = "sample"  # str | free text, defaults to the slide's name
REPORT: Final = "report"  # str | JSON: dropped cells and genes, with the reasons
PROVENANCE: Final = "provenance"  # str | JSON: version, git revision, seed, inputs and their hashes
CONTENT: Final = "content"  # str | JSON: checksums of the other content, see `data/content_record.py`

# Embedded slide (.h5ad), cells in the order of the download -----------------------------------------------------------
EMBEDDING: Final = "embedding"  # uns["cifm"], str | JSON: provenance of the embedding, its recipe and radius
EMBEDDED_CONTENT: Final = "embedded_content"  # uns["cifm"], str | JSON: checksums of the embeddings
MICROENVIRONMENT: Final = "X_cifm"  # obsm (N, D) float32 | embedding of a cell and the cells around it
CELL: Final = "X_cifm_cell"  # obsm (N, D) float32 | embedding of a cell alone
ANALYSIS: Final = "analysis"  # uns["cifm"], str | JSON: provenance of the joint analysis of slides, names of its slots
UMAP: Final = "umap"  # obsm["X_umap"] (N, 2) float32 and uns | UMAP of the cells of all slides
LEIDEN: Final = "leiden"  # obs (N,) categorical and uns | clusters of the cells of all slides
NEIGHBORS: Final = "neighbors"  # uns | parameters of the graph in obsp["distances"], obsp["connectivities"]

# Results in an AnnData of the caller (Python API) ---------------------------------------------------------------------
EXPRESSED: Final = "cifm_expressed"  # layer (N, G) float32 | predicted P(expressed), NaN for genes the model lacks
CELL_TYPE: Final = "cifm_cell_type"  # obs (N,) categorical | assigned cell type
CELL_LINEAGE: Final = "cifm_cell_lineage"  # obs (N,) categorical | lineage of the type
CELL_TYPE_SCORE: Final = "cifm_cell_type_score"  # obs (N,) float32 | confidence of the type, 0 to 1
SHARING: Final = "X_cifm_sharing"  # obsm (N, S) float32 | fraction of the nearest neighbours of the cell in each sample
SHARING_CLUSTER: Final = "sharing_cluster"  # obs (N,) categorical | cluster of the fractions, within the cell's sample
SHARED: Final = (
    "sharing"  # uns["cifm"], str | JSON: provenance of the fractions, names of the samples, facts of the search
)
PREDICTION: Final = "prediction"  # uns["cifm"], str | JSON: provenance of the prediction
ANNOTATION: Final = "annotation"  # uns["cifm"], str | JSON: provenance of the cell types

# Regions of the split ----------------------------------------------------------------------------------------------
TRAIN: Final = "train"
VALIDATION: Final = "validation"
TEST: Final = "test"
BUFFER: Final = "buffer"  # cells between regions, which are not used for tuning or scores, and only by `train_regions = "all"` for training
ALL: Final = "all"
REGIONS: Final = (TRAIN, VALIDATION, TEST, BUFFER)

# Raised when older files can no longer be read. A file with another number is refused.
PREPARED_FORMAT: Final = 1
CHECKPOINT_FORMAT: Final = 4
