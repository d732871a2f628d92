"""The `sctab` annotator: the files of an scTab model, read without its package.

The folder holds one checkpoint (`.ckpt`, Lightning: {"state_dict", "hyper_parameters"}, the network under
`classifier.`), `var.parquet` (genes in order, symbols in `feature_name`) and `cell_type.parquet` or
`categorical_lookup/cell_type.parquet` (names in `label`, by row). The network is scTab's TabNet, or the linear or
multi-layer network of the same repository. Expression is log-normalised to 10,000 over the shared genes.

Letters: N cells, G genes of the model, T types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
import torch
from pyarrow import ArrowException
from torch.nn import functional

from cifm_cli.celltype.alignment import require_overlap, score_cells
from cifm_cli.celltype.base import UNASSIGNED, call_types
from cifm_cli.celltype.registry import require_path
from cifm_cli.celltype.tabnet import TabNet
from cifm_cli.celltype.torch_files import read_torch, state_dict
from cifm_cli.errors import CifmError
from cifm_cli.system_errors import DAMAGED_FILE_ERRORS
from cifm_cli.system_files import without_system_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from scipy.sparse import csr_matrix

    from cifm_cli.celltype.base import Annotation, UnlabelledCells

    Weights = dict[str, torch.Tensor]

THRESHOLD: Final = 0.5
GENES, TYPES = "var.parquet", ("cell_type.parquet", "categorical_lookup/cell_type.parquet")
_PREFIX = "classifier."


@dataclass(frozen=True)
class SctabModel:
    """An scTab model."""

    types: tuple[str, ...]  # T names
    genes: tuple[str, ...]  # G symbols
    logits: Callable[[torch.Tensor], torch.Tensor]  # function from (n, G) expression to (n, T) logits

    @property
    def names(self) -> tuple[str, ...]:
        """The types of the model, then `unassigned`."""
        return (*self.types, UNASSIGNED)

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Assign types to cells; see `Annotator`."""
        # Without the graph for gradients, which would keep all intermediate results in memory.
        with torch.inference_mode():
            logits, is_void = score_cells(
                lambda block, _: self.logits(torch.from_numpy(block)).numpy(),
                self.genes,
                expression,
                symbols,
                renormalise=True,
            )
        return call_types(self.types, logits, is_void, threshold=THRESHOLD)


def load_sctab(folder: Path, *, trust_pickle: bool) -> SctabModel:
    """Read a model folder.

    Args:
        folder: Holds the files described above.
        trust_pickle: Whether the user trusts the checkpoint; those of Lightning hold more than tensors.

    Returns:
        The model.

    Raises:
        CifmError: A file is missing, damaged or not trusted, or the files do not match.
    """
    checkpoints = without_system_files(folder.glob("*.ckpt"))
    lookup = next((folder / name for name in TYPES if (folder / name).is_file()), None)
    # All three are named in one message, so that the folder is completed in one go.
    if len(checkpoints) != 1 or lookup is None or not (folder / GENES).is_file():
        raise CifmError(
            f"{folder}: needs one checkpoint (.ckpt), var.parquet and cell_type.parquet; there are {len(checkpoints)} "
            f"checkpoints, {'a' if (folder / GENES).is_file() else 'no'} var.parquet and "
            f"{'a' if lookup else 'no'} cell_type.parquet",
            "put one checkpoint of scTab beside the var.parquet and cell_type.parquet of its data store",
        )
    (checkpoint,) = checkpoints
    content = read_torch(checkpoint, trusted=trust_pickle)
    try:
        genes = tuple(pd.read_parquet(folder / GENES)["feature_name"].astype(str))
        types = tuple(pd.read_parquet(lookup)["label"].astype(str))
        logits = _network(content)
        # Apply the network once, so that weights that do not fit the genes or the types are an error here.
        output = logits(torch.zeros(1, len(genes)))
        num_outputs = output.shape[1]
    except (*DAMAGED_FILE_ERRORS, ArrowException) as error:
        raise CifmError(f"{folder}: not an scTab model ({error!s:.200})", "copy the files anew") from error
    if not torch.isfinite(output).all():
        raise CifmError(f"{folder}: its weights give logits that are not finite", "copy the files anew")
    if num_outputs != len(types):
        message = f"{folder}: {len(types)} names for {num_outputs} types"
        raise CifmError(message, "take the cell_type.parquet of this model")
    return SctabModel(types, genes, logits)


def _network(content: dict[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Build the network; the names of its weights determine which of the three it is."""
    weights = {
        name.removeprefix(_PREFIX): weight for name, weight in state_dict(content).items() if name.startswith(_PREFIX)
    }
    if "final_mapping.weight" in weights:
        settings = content["hyper_parameters"]
        return TabNet(weights, float(settings["gamma"]), str(settings["mask_type"])).logits
    if "linear.weight" in weights:
        return lambda x: _multilayer(x, weights)
    return lambda x: functional.linear(x, weights["weight"], weights["bias"])


def _multilayer(x: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Linear, batch norm and SiLU for every layer (dropout is for training only), then a linear map."""
    # `encoder` is a sequence of linear, batch norm, SiLU and dropout; only batch norms have a running mean.
    norms = sorted(int(name.split(".")[1]) for name in weights if name.endswith(".running_mean"))
    for norm in norms:
        x = functional.linear(x, weights[f"encoder.{norm - 1}.weight"], weights[f"encoder.{norm - 1}.bias"])
        mean, variance, weight, bias = (
            weights[f"encoder.{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = functional.silu(functional.batch_norm(x, mean, variance, weight, bias))
    return functional.linear(x, weights["linear.weight"], weights["linear.bias"])


def open_sctab(path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool) -> SctabModel:
    """Load an scTab model; see `OpenAnnotator`."""
    folder = require_path("sctab", "FOLDER", path)
    model = load_sctab(folder, trust_pickle=trust_pickle)
    require_overlap(f"sctab:{folder}", model.genes, cells)
    return model
