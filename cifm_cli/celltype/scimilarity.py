"""The `scimilarity` annotator: the folder of a SCimilarity model, read without the scimilarity package.

The folder holds `gene_order.tsv` (one symbol a line), `encoder.ckpt` (torch, {"state_dict"}: `network.i.1` linear,
`network.i.2` batch norm and `network.i.3` PReLU for each hidden layer, and a last linear `network.n`),
`annotation/labelled_kNN.bin` (an hnswlib index, cosine distance) and `annotation/reference_labels.tsv` (type and study
of each item of the index). Expression is log-normalised to 10,000 over the shared genes, and embeddings have unit
length. The probability of a type is its fraction among the 50 nearest labelled cells, and a type is
called from a half.

Letters: N cells, G genes of the model, D dimensions of the embedding, T types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.celltype.alignment import require_overlap, score_cells
from cifm_cli.celltype.base import UNASSIGNED, call_types
from cifm_cli.celltype.hnsw_file import check_index
from cifm_cli.celltype.registry import require_path
from cifm_cli.celltype.torch_files import read_torch, state_dict
from cifm_cli.data.readers.files import open_maybe_gzip, reading
from cifm_cli.errors import CifmError
from cifm_cli.system_errors import DAMAGED_FILE_ERRORS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.celltype.base import Annotation, UnlabelledCells

NUM_NEIGHBOURS: Final = 50
SEARCH_WIDTH: Final = 100  # hnswlib's ef: candidates that a search keeps, more for a better recall
THRESHOLD: Final = 0.5
GENES, ENCODER, INDEX, LABELS = (
    "gene_order.tsv", "encoder.ckpt", "annotation/labelled_kNN.bin", "annotation/reference_labels.tsv",
)  # fmt: skip


@dataclass(frozen=True)
class ScimilarityModel:
    """A SCimilarity model."""

    types: tuple[str, ...]  # T names
    genes: tuple[str, ...]  # G symbols
    weights: dict[str, torch.Tensor]  # state dict of the encoder
    index: Any  # the hnswlib index of the labelled cells
    item_types: NDArray[np.int64]  # (items,) position in `types` of each labelled cell

    @property
    def names(self) -> tuple[str, ...]:
        """The types of the model, then `unassigned`."""
        return (*self.types, UNASSIGNED)

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Assign types to cells; see `Annotator`. Probabilities are fractions of the nearest labelled cells."""

        def fractions_of(block: NDArray[np.float32], _: NDArray[np.bool_]) -> NDArray[np.float64]:
            """(N, types) fractions for a block of cells."""
            return self._neighbour_fractions(embed(block, self.weights))

        fractions, is_void = score_cells(fractions_of, self.genes, expression, symbols, renormalise=True)
        with np.errstate(divide="ignore"):  # the logarithm of a fraction of zero
            return call_types(self.types, np.log(fractions), is_void, threshold=THRESHOLD)

    def _neighbour_fractions(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, T) fraction of each type among the nearest labelled cells."""
        # A small index, such as one of a test, may have fewer items.
        num_neighbours = min(NUM_NEIGHBOURS, len(self.item_types))
        # hnswlib needs at least as many candidates as neighbours.
        self.index.set_ef(max(SEARCH_WIDTH, num_neighbours))
        try:
            items, _ = self.index.knn_query(embeddings, k=num_neighbours)
        except RuntimeError as error:  # fewer items can be reached
            raise CifmError("the index of the SCimilarity model is damaged", "copy the folder anew") from error
        types = self.item_types[items.astype(np.int64)]
        # One bincount for all cells: the types of a cell are numbered from the cell's own offset.
        offset = np.arange(len(types))[:, None] * len(self.types)
        counts = np.bincount((offset + types).ravel(), minlength=len(types) * len(self.types))
        return counts.reshape(len(types), len(self.types)) / num_neighbours


def embed(expression: NDArray[np.float32], weights: dict[str, torch.Tensor]) -> NDArray[np.float32]:
    """Apply the encoder to cells.

    Args:
        expression: (n, G) log-normalised.
        weights: State dict of the encoder.

    Returns:
        (n, D) embeddings of unit length.
    """
    import torch
    from torch.nn import functional

    last = max(int(name.split(".")[1]) for name in weights)
    h = torch.from_numpy(expression)
    with torch.inference_mode():
        for layer in range(last):
            linear, norm, slope = (f"network.{layer}.{part}" for part in (1, 2, 3))
            h = functional.linear(h, weights[f"{linear}.weight"], weights[f"{linear}.bias"])
            mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
            h = functional.batch_norm(h, mean, variance, weights[f"{norm}.weight"], weights[f"{norm}.bias"])
            h = functional.prelu(h, weights[f"{slope}.weight"])
        h = functional.linear(h, weights[f"network.{last}.weight"], weights[f"network.{last}.bias"])
        embeddings: NDArray[np.float32] = functional.normalize(h, dim=1).numpy()
    return embeddings


def load_scimilarity(folder: Path, *, trust_pickle: bool) -> ScimilarityModel:
    """Read a model folder.

    Args:
        folder: Holds the files described above.
        trust_pickle: Whether the user trusts the checkpoint, in case it holds more than tensors.

    Returns:
        The model.

    Raises:
        CifmError: A file is missing or damaged, the files do not match, or hnswlib is not installed.
    """
    try:
        # Imported here, as the package is optional: it is compiled during its installation.
        import hnswlib
    except ImportError as error:
        raise CifmError("scimilarity models need hnswlib", "pip install hnswlib (it needs a C++ compiler)") from error
    for name in (GENES, ENCODER, INDEX, LABELS):
        if not (folder / name).is_file():
            raise CifmError(f"{folder}: no {name}", "name the folder of a SCimilarity model, unpacked")
    genes = tuple(line.strip() for line in _read_lines(folder / GENES) if line.strip())
    labels = [line.split("\t")[0].strip() for line in _read_lines(folder / LABELS)]
    types, item_types = np.unique(labels, return_inverse=True)
    content = read_torch(folder / ENCODER, trusted=trust_pickle)
    try:
        weights = state_dict(content)
        # Embedding a void cell gives the number of dimensions, and checks that the weights fit the genes.
        num_dimensions = embed(np.zeros((1, len(genes)), dtype=np.float32), weights).shape[1]
        check_index(folder / INDEX, len(labels), num_dimensions)
        index = hnswlib.Index(space="cosine", dim=num_dimensions)
        # With room for the items of the file only, whatever number it claims to need.
        index.load_index(str(folder / INDEX), max_elements=len(labels))
    except DAMAGED_FILE_ERRORS as error:
        raise CifmError(f"{folder}: not a SCimilarity model ({error!s:.200})", "copy the folder anew") from error
    return ScimilarityModel(tuple(map(str, types)), genes, weights, index, item_types.astype(np.int64))


def _read_lines(path: Path) -> list[str]:
    """Lines of a text file."""
    with reading(path), open_maybe_gzip(path) as file:
        return file.read().decode().splitlines()


def open_scimilarity(path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool) -> ScimilarityModel:
    """Load a SCimilarity model; see `OpenAnnotator`."""
    folder = require_path("scimilarity", "FOLDER", path)
    model = load_scimilarity(folder, trust_pickle=trust_pickle)
    require_overlap(f"scimilarity:{folder}", model.genes, cells)
    return model
