"""cifm: train, evaluate and use the Cellular Interaction Foundation Model (You et al. 2025).

The Python API takes and returns AnnData objects:

    import anndata as ad
    import cifm_cli as cifm

    adata = ad.read_h5ad("prepared/slide.h5ad")
    model = cifm.load_model("runs/latest")
    cifm.embed(adata, model)  # obsm["X_cifm"]

The functions are imported when they are first used, so that `import cifm_cli` loads neither torch nor anndata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cifm_cli.version import __version__ as __version__

if TYPE_CHECKING:
    from cifm_cli.api import (
        Evaluation,
        Inject,
        Knockout,
        LoadedModel,
        Overexpress,
        Probe,
        ReferenceCells,
        Remove,
        ResponseValidation,
        Sensitivity,
        SharingResult,
        Swap,
        annotate,
        embed,
        evaluate,
        leave_out,
        load_model,
        predict,
        prepare,
        probe,
        sensitivity,
        share,
        simulate,
        train,
        validate_response,
    )
    from cifm_cli.errors import CifmError

__all__ = [
    "CifmError",
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

if not TYPE_CHECKING:  # with a `__getattr__` in sight, mypy would accept any name

    def __getattr__(name: str) -> object:
        """Import a name of the API when it is first used."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module("cifm_cli.errors" if name == "CifmError" else "cifm_cli.api"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Names of the API and of the modules that are loaded."""
        return sorted({*globals(), *__all__})
