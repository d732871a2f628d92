"""Recipes: TOML in, frozen models out, every mistake reported at once."""

from __future__ import annotations

import difflib
import tomllib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cifm_cli.errors import CifmError
from cifm_cli.recipe_sections import (
    DataRecipe,
    EvaluateRecipe,
    MaskRecipe,
    ModelRecipe,
    ObjectiveRecipe,
    Section,
    TrainRecipe,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails


class Recipe(Section):
    """A whole recipe; its sections are the tables of the TOML file."""

    description: str = ""
    """One line, shown by `cifm recipes list`."""
    data: DataRecipe = DataRecipe()
    model: ModelRecipe = ModelRecipe()
    mask: MaskRecipe = MaskRecipe()
    objective: ObjectiveRecipe = ObjectiveRecipe()
    train: TrainRecipe = TrainRecipe()
    evaluate: EvaluateRecipe = EvaluateRecipe()


def shipped() -> dict[str, Path]:
    """Recipes that come with cifm.

    Returns:
        Name to path: from the installed package, or from the checkout's `recipes/` in an editable install.
    """
    packaged = Path(str(resources.files("cifm_cli"))) / "recipes"
    folder = packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find(name: str) -> Path:
    """Find a recipe by path or by shipped name.

    Args:
        name: A path (which wins), or a shipped recipe as `xenium`, `xenium.toml` or `recipes/xenium.toml`.

    Returns:
        The TOML file.

    Raises:
        CifmError: There is none.
    """
    path = Path(name)
    recipes = shipped()
    if path.is_file():
        return path
    if path.stem in recipes and path.parent in (Path(), Path("recipes")):
        return recipes[path.stem]
    near = difflib.get_close_matches(path.stem, recipes, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped recipes: {', '.join(recipes)}"
    raise CifmError(f"recipe {name}: no such file", hint)


def load(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `--set` on top.

    Args:
        path: TOML file.
        settings: `section.key=value`, the value in TOML (a bare word is a string).

    Returns:
        The validated recipe.

    Raises:
        CifmError: The file is not TOML, or holds mistakes; all of them are listed.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CifmError(f"{path}: not valid TOML: {error}", "see `cifm recipes show xenium` for an example") from error
    for setting in settings:
        _apply(content, setting)
    return parse(content, str(path))


def parse(content: dict[str, Any], origin: str) -> Recipe:
    """Validate a recipe's content.

    Args:
        content: Nested tables, as TOML or JSON gives them.
        origin: Where it came from, for messages.

    Returns:
        The validated recipe.

    Raises:
        CifmError: The content holds mistakes; all of them are listed.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        mistakes = [_explain(detail) for detail in error.errors()]
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        hint = next((near for _, near in mistakes if near), "see `cifm recipes show xenium` for every key")
        raise CifmError(f"recipe {origin}: {count}: {'; '.join(what for what, _ in mistakes)}", hint) from error


def _explain(detail: ErrorDetails) -> tuple[str, str]:
    """One mistake in the user's words, and a hint when a known key is near."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        near = _nearest(key)
        return f"unknown key {key}" + (f" (nearest: {near})" if near else ""), f"did you mean {near}?" if near else ""
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"]), ""
    given = detail["input"]
    return f"{key} = {given!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}", ""


def keys() -> list[str]:
    """Every key of a recipe, as `section.key`."""
    found = []
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            found += [f"{name}.{key}" for key in section.model_fields]
        else:
            found.append(name)
    return found


def _nearest(key: str) -> str | None:
    known = keys()
    same_leaf = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    near = same_leaf or difflib.get_close_matches(key, [*known, *Recipe.model_fields], n=1)
    return near[0] if near else None


def _apply(content: dict[str, Any], setting: str) -> None:
    """Set one `section.key=value` in place."""
    key, equals, text = setting.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise CifmError(f"--set {setting}: not section.key=value", "for instance --set train.max_minutes=15")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in parts[:-1]:
        content = content.setdefault(part, {})
        if not isinstance(content, dict):
            raise CifmError(f"--set {setting}: {part} is not a section", "see `cifm recipes show xenium` for every key")
    content[parts[-1]] = value


def to_toml(recipe: Recipe) -> str:
    """Write a resolved recipe as TOML; `load` gives the same recipe back.

    Args:
        recipe: Any recipe.

    Returns:
        TOML with every key that has a value.
    """
    import tomli_w

    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))
