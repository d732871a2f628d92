"""The plan of a cross-validation: what is trained on what. It is stored, so that a run that was killed can be continued."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cifm_cli.errors import CifmError
from cifm_cli.path_text import file_name
from cifm_cli.stored_json import parse_json
from cifm_cli.workspace import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cifm_cli.cross_validation.groups import SlideGroup
    from cifm_cli.recipe import Recipe

PLAN_FILE = "plan.json"
_SECTIONS = ("data", "model", "mask", "objective", "train")  # of a recipe; the others do not change the training


@dataclass(frozen=True)
class Plan:
    """What a cross-validation trains."""

    key: str  # key by which slides are grouped
    seed: int  # seed of every training
    recipe: Recipe  # recipe of every training
    groups: Sequence[SlideGroup]  # each is left out once
    digests: Mapping[str, str]  # name of a slide to the SHA-256 of its file

    def to_json(self) -> dict[str, Any]:
        """The content of `plan.json`."""
        recipe = self.recipe.model_dump(mode="json", exclude_none=True)
        return {
            "key": self.key,
            "seed": self.seed,
            "recipe": {section: recipe[section] for section in _SECTIONS},
            "groups": {
                group.name: {
                    "folder": group.folder,
                    "slides": {file_name(path): self.digests[file_name(path)] for path in group.slides},
                }
                for group in self.groups
            },
        }

    def store(self, folder: Path) -> None:
        """Write the plan to the folder of the trainings, or compare it with that of the trainings that are there.

        Args:
            folder: Folder of the trainings.

        Raises:
            CifmError: The folder holds trainings of another plan, or its plan is damaged.
        """
        path, content = folder / PLAN_FILE, self.to_json()
        # Without a run there is nothing to continue: the plan is that of a command that failed early.
        if not path.exists() or not any(entry.is_dir() for entry in folder.iterdir()):
            write_json(path, content)
            return
        differing = _differences(_read(path), content)
        if differing:
            raise CifmError(
                f"{folder}: its trainings were started with another {', '.join(differing)}",
                "give the same again to continue them, choose another --out, or remove this folder",
            )


def _read(path: Path) -> dict[str, Any]:
    """The content of a stored plan."""
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise CifmError(f"{path}: damaged: {error}", "choose another --out, or remove the folder") from error
    if not isinstance(content, dict):
        raise CifmError(f"{path}: damaged: must be a JSON object", "choose another --out, or remove the folder")
    return content


def _differences(stored: dict[str, Any], content: dict[str, Any]) -> list[str]:
    """What differs between two plans, in words for a message."""
    words = [f"--leave-out ({stored.get('key')})"] if stored.get("key") != content["key"] else []
    words += ["--seed"] if stored.get("seed") != content["seed"] else []
    recipe = stored.get("recipe")
    recipe = recipe if isinstance(recipe, dict) else {}
    sections = [f"[{name}]" for name, section in content["recipe"].items() if recipe.get(name) != section]
    words += [f"recipe ({' '.join(sections)})"] if sections else []
    if not words and stored.get("groups") != content["groups"]:
        words.append("set of slides, or slides with another content or group")
    return words
