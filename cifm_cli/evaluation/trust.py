"""What an evaluation found about a model, for commands that use the model: their trust line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cifm_cli.model.checkpoint import MODEL_FILE
from cifm_cli.path_text import file_name, path_text
from cifm_cli.provenance import hash_file
from cifm_cli.stored_json import StoredObject, Text, parse_json, validate
from cifm_cli.workspace import EVALUATION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BETTER: Final = "better"
UNKNOWN: Final = "not evaluated"
_METRICS_FILE: Final = "metrics.json"


class _Facts(StoredObject):
    decision: Text


class _Verdict(StoredObject):
    sentences: dict[Text, Text]
    models: dict[Text, dict[Text, _Facts]]


class _Provenance(StoredObject):
    inputs: dict[str, str]
    models: dict[Text, str]


class _Metrics(StoredObject):
    """What is read of `metrics.json`."""

    verdict: _Verdict
    provenance: _Provenance
    slides: dict[Text, Any]


def find_trust(run: Path, slides: Sequence[Path]) -> dict[str, Any]:
    """Look up what the last evaluation of the workspace found about a model.

    Args:
        run: Folder of the run. The evaluation is looked for in `evaluation/`, then beside the folder of the runs.
        slides: The slides that the model is used on.

    Returns:
        `status`: `better`, `worse` or `no difference shown`, compared with the best baseline (of several geometries the worst
        case), or `not evaluated`; `sentence` for the user; and the `evaluation` it is from, or None.
    """
    digest = hash_file(run / MODEL_FILE)
    for folder in dict.fromkeys((EVALUATION, run.resolve().parent.parent / EVALUATION)):
        path = folder / _METRICS_FILE
        found = _read(path)
        name = None if found is None else _name_of(digest, found.provenance)
        if found is None or name is None or name not in found.verdict.sentences:
            continue
        decisions = {facts.decision for facts in found.verdict.models.get(name, {}).values()}
        status = BETTER if decisions == {BETTER} else next(iter(sorted(decisions - {BETTER}, reverse=True)), UNKNOWN)
        others = [file_name(slide) for slide in slides if file_name(slide) not in found.slides]
        parts = [f"Evaluation of this model: {found.verdict.sentences[name]}"]
        if status != BETTER:
            parts.append("What it says here deserves no more trust than what a simple baseline would say.")
        if others:
            parts.append(f"It was not evaluated on {', '.join(others[:3])}{' and others' if len(others) > 3 else ''}.")
        return {"status": status, "sentence": " ".join(parts), "evaluation": path_text(path)}
    sentence = (
        "This model was not evaluated in this workspace, so whether it predicts better than simple baselines is unknown: "
        f"cifm evaluate --model {path_text(run)} tells."
    )
    return {"status": UNKNOWN, "sentence": sentence, "evaluation": None}


def _read(path: Path) -> _Metrics | None:
    """Read an evaluation; None if there is none, or if it is damaged or of an earlier version."""
    try:
        return validate(_Metrics, parse_json(path.read_bytes()))
    except (OSError, ValueError):
        return None


def _name_of(digest: str, provenance: _Provenance) -> str | None:
    """The name under which a model was evaluated, by the SHA-256 of its file; None if it was not."""
    for name, run in provenance.models.items():
        if provenance.inputs.get(f"{run}/{MODEL_FILE}") == digest:
            return name
    return None
