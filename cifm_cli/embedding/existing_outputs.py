"""Whether embedded slides that exist already may be replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cifm_cli import keys, provenance
from cifm_cli.data.metadata import parse_object
from cifm_cli.data.writers.analysed import elements
from cifm_cli.data.writers.embedded import require_other_file
from cifm_cli.data.writers.stored_content import read_stored_content
from cifm_cli.errors import CifmError
from cifm_cli.model.checkpoint import MODEL_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cifm_cli.data.writers.embedding_formats import Format
    from cifm_cli.data.writers.stored_content import StoredContent

_OWN: Final = {f"obsm/{keys.MICROENVIRONMENT}", f"obsm/{keys.CELL}"}
_LOST: Final = "with what would be lost"
_ELSEWHERE: Final = "choose another folder with --out"


def require_replaceable_slides(
    slides: Sequence[Path], out: Path, file_format: Format, model: Path, *, force: bool
) -> None:
    """Refuse to replace embedded slides of another model, of other cells, or with elements that would be lost.

    Tables and arrays (`parquet`, `npy`) have no provenance, and are replaced.

    Args:
        slides: Prepared slides.
        out: Folder of the files.
        file_format: Their format.
        model: Folder of the model.
        force: Whether any embedded slide may be replaced.

    Raises:
        CifmError: A file may not be replaced. One that is not an embedded slide may never be.
    """
    if file_format not in ("h5ad", "zarr"):
        return
    targets = {slide: out / f"{slide.stem}.{file_format}" for slide in slides}
    targets = {slide: target for slide, target in targets.items() if target.exists()}
    digest = provenance.hash_file(model / MODEL_FILE) if targets and not force else ""
    for slide, target in targets.items():
        require_other_file(target, slide)
        stored = read_stored_content(target)
        if stored is None or keys.EMBEDDING not in stored.metadata:
            raise CifmError(f"{target} exists and is not an embedded slide", _ELSEWHERE)
        reason = None if force else _reason_to_keep(stored, read_stored_content(slide), digest, target)
        if reason is not None:
            raise CifmError(f"{target} exists, {reason}", f"replace it with --force, or {_ELSEWHERE}")


class EmbeddingProblem(NamedTuple):
    """Why an embedded slide is not the one that a model would make."""

    reason: str
    replaceable: bool  # whether nothing that another program has added would be lost


def embedding_problem(slide: Path, target: Path, digest: str) -> EmbeddingProblem | None:
    """Compare an embedded slide with a prepared slide and a model.

    Args:
        slide: The prepared slide.
        target: The embedded slide.
        digest: SHA-256 of the file of the model.

    Returns:
        What differs; None if it was made from this slide by this model.

    Raises:
        CifmError: A file cannot be read.
    """
    stored = read_stored_content(target)
    if stored is None or keys.EMBEDDING not in stored.metadata:
        return EmbeddingProblem("not an embedded slide", replaceable=False)
    source = read_stored_content(slide)
    reason = _reason_to_keep(stored, source, digest, target)
    lost = source is not None and bool(_lost(stored, source))
    return None if reason is None or reason.startswith(_LOST) else EmbeddingProblem(reason, replaceable=not lost)


def _reason_to_keep(stored: StoredContent, source: StoredContent | None, digest: str, target: Path) -> str | None:
    """Why an embedded slide should not be replaced without asking; None if it is of the same cells and model."""
    model = parse_object(stored.metadata[keys.EMBEDDING], str(target)).get("model")
    if not isinstance(model, dict) or model.get("sha256") != digest:
        return "embedded by another model"
    if source is None:
        return None  # embedding it tells what is wrong with it
    if stored.metadata.get(keys.CONTENT) != source.metadata.get(keys.CONTENT):
        return "made from another slide"
    lost = _lost(stored, source)
    if not lost:
        return None
    return f"{_LOST}: {', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}"


def _lost(stored: StoredContent, source: StoredContent) -> list[str]:
    """Elements of an embedded slide that another program has added."""
    lost = stored.names - source.names - _OWN - _analysis(stored.metadata)
    # Plots of scanpy add colours.
    return sorted(name for name in lost if not name.endswith("_colors"))


def _analysis(metadata: Mapping[str, Any]) -> set[str]:
    """Paths of all elements that a joint analysis can have, if there was one."""
    if keys.ANALYSIS not in metadata:
        return set()
    return {name for prefix in ("", "cifm_") for kind in elements(prefix).values() for name in kind}
