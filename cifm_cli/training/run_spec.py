"""How a run began: what whoever goes on with it can't change, and need not say again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifm_cli.errors import CifmError
from cifm_cli.provenance import hash_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cifm_cli.training.session import Setup


@dataclass(frozen=True)
class RunSpec:
    """Stored with every state of a run.

    Args:
        vocabulary: G Ensembl ids, in the order of the weights.
        seed: Of every random draw.
        inputs: Path to SHA-256 of the slides, in the order in which they are drawn from.
        backend: Its name.
        init: What `--init` brought, as in the provenance.
    """

    vocabulary: tuple[str, ...]
    seed: int
    inputs: dict[str, str]
    backend: str
    init: dict[str, Any] | None

    @classmethod
    def of(cls, vocabulary: Sequence[str], origin: Mapping[str, Any]) -> RunSpec:
        """From a run's vocabulary and provenance."""
        return cls(tuple(vocabulary), origin["seed"], origin["inputs"], origin["backend"], origin["init"])

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunSpec:
        """What `to_json` made."""
        return cls(**{**content, "vocabulary": tuple(content["vocabulary"])})

    def to_json(self) -> dict[str, Any]:
        """For the header of a state."""
        return {**vars(self), "vocabulary": list(self.vocabulary)}

    def complete(self, setup: Setup, *, first: bool) -> Setup:
        """What the user asked for, with the seed and the slides that the run began with.

        Args:
            setup: Without slides where the user named none.
            first: Whether this is the first of the processes: it looks for all of them whether slides have changed.

        Raises:
            CifmError: Another seed, or other slides, were asked for.
        """
        if setup.seed not in (None, self.seed):
            raise CifmError(
                f"{setup.folder}: resumed with --seed {setup.seed}, begun with {self.seed}", "leave --seed out"
            )
        slides = self._slides(setup) if first or setup.slides else [Path(name) for name in self.inputs]
        return replace(setup, seed=self.seed, slides=slides)

    def _slides(self, setup: Setup) -> list[Path]:
        """The run's slides in their order, wherever they are now."""
        given = list(setup.slides) or [Path(name) for name in self.inputs]
        for path in given:
            if not path.is_file():
                raise CifmError(
                    f"{path}: a slide of {setup.folder}, and no such file", "name the run's slides: --data PATH"
                )
        found = {(path.stem, hash_file(path)): path for path in given}
        wanted = [(Path(name).stem, digest) for name, digest in self.inputs.items()]
        for key, name in zip(wanted, self.inputs, strict=True):
            if key not in found:
                raise CifmError(
                    f"{setup.folder}: began with {name}, which has changed or is not among the slides",
                    "go on with the slides that the run began with, or train anew",
                )
        for key, path in found.items():
            if key not in wanted:
                raise CifmError(f"{path}: not among the slides that {setup.folder} began with", "leave --data out")
        return [found[key] for key in wanted]
