"""How a run was started. A resumed run takes these settings from its state and may not change them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifm_cli.errors import CifmError
from cifm_cli.path_text import file_name, path_from_text
from cifm_cli.provenance import hash_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cifm_cli.training.config import TrainConfig


@dataclass(frozen=True)
class RunSpec:
    """How a run was started; stored with every training state."""

    vocabulary: tuple[str, ...]  # G Ensembl ids, in the order of the weights
    seed: int  # seed of every random draw
    inputs: dict[str, str]  # path and SHA-256 of each slide, in the order in which tiles are drawn from them
    backend: str  # name of the backend
    init: dict[str, Any] | None  # run whose weights training started from, as in the provenance

    @classmethod
    def from_provenance(cls, vocabulary: Sequence[str], provenance: Mapping[str, Any]) -> RunSpec:
        """Make the specification of a run from its vocabulary and its provenance."""
        names = ("seed", "inputs", "backend", "init")
        return cls(tuple(vocabulary), **{name: provenance[name] for name in names})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunSpec:
        """The specification that `to_json` turned into `content`; unknown keys are ignored."""
        return cls.from_provenance(content["vocabulary"], content)

    def to_json(self) -> dict[str, Any]:
        """The specification for the header of a training state."""
        return {**vars(self), "vocabulary": list(self.vocabulary)}

    def complete(self, config: TrainConfig, *, check_slides: bool) -> TrainConfig:
        """Fill in seed and slides where the user gives none for a resumed run.

        Args:
            config: Settings as the user gave them.
            check_slides: Whether to check that slides have not changed. Of several processes, one does it for all.

        Returns:
            The same with the seed of the run, and with its slides in their order.

        Raises:
            CifmError: The user gives another seed or other slides.
        """
        if config.seed not in (None, self.seed):
            raise CifmError(
                f"{config.folder}: resumed with --seed {config.seed}, started with {self.seed}", "leave --seed out"
            )
        # Hashing reads whole files, so only one process does it, unless the user names slides in an order of their own.
        slides = (
            self._find_slides(config)
            if check_slides or config.slides
            else [path_from_text(name) for name in self.inputs]
        )
        return replace(config, seed=self.seed, slides=slides)

    def _find_slides(self, config: TrainConfig) -> list[Path]:
        """The paths of the run's slides, in the order in which the run uses them."""
        paths = list(config.slides) or [path_from_text(name) for name in self.inputs]
        for path in paths:
            if not path.is_file():
                raise CifmError(
                    f"{path}: a slide of {config.folder}, and no such file", "name the run's slides: --data PATH"
                )
        # Slides are recognised by name and contents, because they may have been moved.
        given = {(file_name(path), hash_file(path)): path for path in paths}
        expected = [(Path(name).stem, digest) for name, digest in self.inputs.items()]
        for slide, name in zip(expected, self.inputs, strict=True):
            if slide not in given:
                raise CifmError(
                    f"{config.folder}: started with {name}, which has changed or is not among the slides",
                    "continue with the slides that the run was started with, or train a new one",
                )
        for slide, path in given.items():
            if slide not in expected:
                raise CifmError(
                    f"{path}: not among the slides that {config.folder} was started with", "leave --data out"
                )
        # The order of the user may differ, and tiles are drawn by the number of a slide.
        return [given[slide] for slide in expected]
