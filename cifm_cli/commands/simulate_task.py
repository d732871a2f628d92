"""What all modes of `cifm simulate` share: the slide, its labels, the model, and where results go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifm_cli import workspace
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from cifm_cli.data.slide import Slide
    from cifm_cli.inference.adaptation.adapt import Adapt
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.simulation.edits.labels import ColumnLabels
    from cifm_cli.simulation.edits.words import EditWords


@dataclass(frozen=True)
class SimulateTask:
    """Options of `cifm simulate` that do not depend on the mode. Nothing is read before it is asked for."""

    slide: Path | None  # the slide; None for the only one of the workspace
    labels: str | None  # obs column whose labels the edits name; None for cell types
    markers: Path | None  # --markers TSV
    out: Path  # --out
    seed: int  # --seed
    as_json: bool  # whether the result is printed as JSON
    model: Path | None  # --model RUN
    backend: str  # --backend
    device: str  # --device

    @property
    def slide_path(self) -> Path:
        """The slide that was named, or the only one of the workspace.

        Raises:
            CifmError: There is none, or there are several.
        """
        paths = workspace.slide_paths([self.slide] if self.slide else ())
        if len(paths) > 1:
            names = ", ".join(str(path) for path in paths[:5])
            raise CifmError(f"there are {len(paths)} slides, but simulate takes one", f"name one of them: {names}")
        return paths[0]

    @property
    def model_path(self) -> Path:
        """The `model.safetensors` of the run.

        Raises:
            CifmError: There is no run.
        """
        return workspace.run_folder(self.model) / "model.safetensors"

    def load_model(self) -> LoadedModel:
        """Load the model, as it was trained.

        Raises:
            CifmError: It cannot be read, or the backend cannot be used.
        """
        from cifm_cli.inference.loaded_model import load_model

        return load_model(self.model_path.parent, self.backend, self.device)

    def open_slide(self) -> Slide:
        """Open the slide.

        Raises:
            CifmError: It cannot be read.
        """
        from cifm_cli.data.slide import open_slide

        return open_slide(self.slide_path)

    def read_labels(self, slide: Slide) -> ColumnLabels | None:
        """Labels of the named obs column; None if none is named, which means cell types.

        Raises:
            CifmError: The slide has no such column.
        """
        from cifm_cli.celltype.stored_labels import read_labels
        from cifm_cli.simulation.edits.labels import ColumnLabels

        return None if self.labels is None else ColumnLabels(self.labels, read_labels(slide, self.labels))

    def provenance(
        self, command: str, words: EditWords, used: LoadedModel, adapt: Adapt, facts: dict[str, Any]
    ) -> dict[str, Any]:
        """Provenance of a result.

        Args:
            command: Command and mode.
            words: The edits as they were typed, which name further input files.
            used: The model that made the result, adapted or not.
            adapt: What `--adapt` asked for.
            facts: Further entries.

        Returns:
            The provenance, with the hashes of all input files.
        """
        from cifm_cli import provenance
        from cifm_cli.inference.adaptation.option import adaptation_facts

        optional = (self.markers, words.inject_from, words.at)
        return provenance.collect(
            command,
            seed=self.seed,
            inputs=[self.slide_path, self.model_path, *(file for file in optional if file)],
            backend=used.backend.name,
            device=str(used.device),
            **facts,
            **adaptation_facts(used, adapt, self.seed),
        )

    def folder(self, default: str) -> Path:
        """Folder of the results: `default`, unless `--out` names another one than that of a simulation."""
        return Path(default) if self.out == workspace.SIMULATION else self.out
