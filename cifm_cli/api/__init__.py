"""The Python API: AnnData objects in, AnnData objects out. Import it as `import cifm_cli as cifm`.

Every function accepts what `cifm.prepare` or `cifm prepare` made, and any AnnData with raw counts (in `X`, `raw` or a
layer), cell centres in micrometres in `obsm["spatial"]`, and genes by Ensembl id or symbol in `var`. Results keep the
order and the names of the caller's cells. They are stored in the given object, unless `copy=True`; functions that make
new cells return a new object. No file is written unless the caller asks for it. Messages are logged with `logging`
under the name `cifm_cli`; errors that the caller can fix are `CifmError`, with a message and a hint.

Letters: N cells, G genes of `adata`, D features, Q locations.
"""

from __future__ import annotations

from cifm_cli.api.cross_validation import leave_out
from cifm_cli.api.evaluation import Evaluation, evaluate
from cifm_cli.api.inference import annotate, embed, predict
from cifm_cli.api.preparation import prepare
from cifm_cli.api.probing import Probe, probe
from cifm_cli.api.response_validation import ResponseValidation, validate_response
from cifm_cli.api.sensitivity_map import Sensitivity, sensitivity
from cifm_cli.api.sharing import SharingResult, share
from cifm_cli.api.simulation import simulate
from cifm_cli.api.slides import load_model
from cifm_cli.api.training import train
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.simulation.edits.requests import Inject, Knockout, Overexpress, ReferenceCells, Remove, Swap

__all__ = [
    "Evaluation",
    "Inject",
    "Knockout",
    "LoadedModel",
    "Overexpress",
    "Probe",
    "ReferenceCells",
    "Remove",
    "ResponseValidation",
    "Sensitivity",
    "SharingResult",
    "Swap",
    "annotate",
    "embed",
    "evaluate",
    "leave_out",
    "load_model",
    "predict",
    "prepare",
    "probe",
    "sensitivity",
    "share",
    "simulate",
    "train",
    "validate_response",
]
