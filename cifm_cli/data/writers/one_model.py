"""Embeddings of several slides can be compared only if one model made them in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Embedded(Protocol):
    """An embedded slide."""

    @property
    def name(self) -> str:
        """Name of the slide."""

    @property
    def origin(self) -> dict[str, Any]:
        """Provenance of the embedding."""


def require_one_model(slides: Sequence[_Embedded]) -> None:
    """Refuse embeddings of different models, or of one model that was adapted to some of the slides only.

    Args:
        slides: Embedded slides, at least one.

    Raises:
        CifmError: They cannot be compared.
    """
    first = slides[0]
    for slide in slides:
        if slide.origin["model"]["sha256"] != first.origin["model"]["sha256"]:
            # Dimensions of two models have nothing in common, even for the same recipe.
            message = f"{first.name} and {slide.name} were embedded by different models"
            raise CifmError(message, "embed them with the same model: `cifm embed SLIDE... --model RUN`")
        # Earlier versions never adapted a model.
        adapt, other = (str(each.origin.get("adapt", "none")) for each in (first, slide))
        if adapt != other:
            raise CifmError(
                f"{first.name} and {slide.name} were embedded with different --adapt: {adapt}, {other}",
                "embed them alike: `cifm embed SLIDE... --adapt slide` (or none)",
            )
