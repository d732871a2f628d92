"""Recipes: TOML files that are validated to frozen models. All mistakes are reported at once."""

from __future__ import annotations

import difflib
import re
import tomllib
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError, model_validator

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
from cifm_cli.stored_json import Text
from cifm_cli.system_files import without_system_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

_MAX_BYTES = 1 << 18  # of a recipe; those of this package have less than 4 kB
_EXAMPLE = "see `cifm recipes show xenium` for an example"
_MAX_LINE = 4_000  # bytes of a line: the time to parse a dotted key grows with the square of its length
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # all but tabs and line ends
_MAX_MISTAKES = 30  # in one message
_MAX_SHOWN = 60  # characters of a wrong value in a message


class Recipe(Section):
    """A whole recipe. Its sections are the tables of the TOML file."""

    description: Text = ""
    """One line, shown by `cifm recipes list`."""
    data: DataRecipe = DataRecipe()
    model: ModelRecipe = ModelRecipe()
    mask: MaskRecipe = MaskRecipe()
    objective: ObjectiveRecipe = ObjectiveRecipe()
    train: TrainRecipe = TrainRecipe()
    evaluate: EvaluateRecipe = EvaluateRecipe()

    @model_validator(mode="after")
    def _objective_fits(self) -> Self:
        if self.model.message == "release" and self.objective.name != "balanced_mse":
            raise ValueError("model.message = 'release' needs objective.name = 'balanced_mse'")
        return self


def shipped() -> dict[str, Path]:
    """List the recipes that come with cifm.

    Returns:
        Name to path. The files are in the package, or in `recipes/` of the checkout in an editable install.
    """
    packaged = Path(str(resources.files("cifm_cli"))) / "recipes"
    folder = packaged if packaged.is_dir() else Path(__file__).resolve().parent.parent / "recipes"
    return {path.stem: path for path in without_system_files(folder.glob("*.toml"))}


def find(name: str) -> Path:
    """Find a recipe by path or by shipped name.

    Args:
        name: An existing path, or else a shipped recipe as `xenium`, `xenium.toml` or `recipes/xenium.toml`.

    Returns:
        The TOML file.

    Raises:
        CifmError: There is no such file and no such recipe.
    """
    path = Path(name)
    recipes, is_data = shipped(), path.suffix in (".h5ad", ".zarr")
    # A file of the user comes first, also if it has the name of a shipped recipe.
    with suppress(OSError):  # of a name that is too long
        if path.is_file() and not is_data:
            return path
    if path.stem in recipes and path.parent in (Path(), Path("recipes")):
        return recipes[path.stem]
    with suppress(OSError):
        is_data |= path.is_dir()
    if is_data:  # the recipe comes first, and was left out
        raise CifmError(f"recipe {name}: data, not a recipe", f"name a recipe before it: {', '.join(recipes)}")
    # The hint names one recipe if the name is misspelled, and all of them if it is unlike any.
    near = difflib.get_close_matches(path.stem, recipes, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped recipes: {', '.join(recipes)}"
    raise CifmError(f"recipe {name}: no such file", hint)


def read(path: Path) -> str:
    """Read the text of a recipe.

    Args:
        path: TOML file.

    Returns:
        Its text, without a byte-order mark.

    Raises:
        CifmError: The file is missing, may not be read, or is no text in UTF-8.
    """
    try:
        # One byte more than allowed, as a larger file need not be read as a whole.
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CifmError(
            f"recipe {path}: {error.strerror or error}", "check the path, or `cifm recipes list`"
        ) from error
    if len(content) > _MAX_BYTES or max(map(len, content.split(b"\n"))) > _MAX_LINE:
        limits = f"more than {_MAX_BYTES:,} bytes, or than {_MAX_LINE:,} in a line"
        raise CifmError(f"{path}: not valid TOML: {limits}, are no recipe", _EXAMPLE)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CifmError(f"{path}: not valid TOML: not text in UTF-8 ({error})", "save it in UTF-8") from error
    # TOML allows none, and a terminal would run them.
    if found := _CONTROL.search(text):
        raise CifmError(f"{path}: not valid TOML: control character {found[0]!r}", "save it as plain text")
    return text


def load(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe and override keys by `--set`.

    Args:
        path: TOML file.
        settings: `section.key=value` each, with the value in TOML; a word without quotes is a string.

    Returns:
        The validated recipe.

    Raises:
        CifmError: The file is not TOML, or the recipe is invalid; the message lists all mistakes.
    """
    text = read(path)
    try:
        content = tomllib.loads(text)
    # Numbers of thousands of digits are a ValueError too.
    except (ValueError, RecursionError) as error:
        raise CifmError(f"{path}: not valid TOML: {error}", _EXAMPLE) from error
    # Settings are applied before validation, so their mistakes are listed with those of the file.
    for setting in settings:
        _apply(content, setting)
    return parse(content, str(path))


def parse(content: dict[str, Any], origin: str) -> Recipe:
    """Validate the content of a recipe.

    Args:
        content: Nested dictionaries, as parsed from TOML or JSON.
        origin: Path of the file, for messages.

    Returns:
        The validated recipe.

    Raises:
        CifmError: The recipe is invalid; the message lists all mistakes.
    """
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        mistakes = [_explain(detail) for detail in error.errors(include_url=False)]
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        hint = next((hint for _, hint in mistakes if hint), "see `cifm recipes show xenium` for every key")
        messages = [message for message, _ in mistakes[:_MAX_MISTAKES]] + ["..."] * (len(mistakes) > _MAX_MISTAKES)
        raise CifmError(f"recipe {origin}: {count}: {'; '.join(messages)}", hint) from error


def _explain(detail: ErrorDetails) -> tuple[str, str]:
    """Describe one mistake by the key that the user typed; the hint is empty if no known key is similar."""
    key = ".".join(str(name) for name in detail["loc"])
    key = key if len(key) <= _MAX_SHOWN else f"{key[:_MAX_SHOWN]}..."
    if detail["type"] == "extra_forbidden":
        near = _nearest(key)
        return f"unknown key {key}" + (f" (nearest: {near})" if near else ""), f"did you mean {near}?" if near else ""
    if detail["type"] == "value_error":  # raised by a validator of a section, which names the keys itself
        text = str(detail["ctx"]["error"])
        return (text if key in text else f"{key}: {text}"), ""
    # Messages of pydantic begin with a capital, and follow a colon here.
    return f"{key or 'recipe'} = {_shown(detail['input'])}: {detail['msg'][0].lower()}{detail['msg'][1:]}", ""


def _shown(value: object) -> str:
    """A wrong value for a message, shortened."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or tables nested as deeply
        return "..."
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def keys() -> list[str]:
    """List every key of a recipe, as `section.key`."""
    names = []
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            names += [f"{name}.{key}" for key in section.model_fields]
        else:
            names.append(name)
    return names


def _nearest(key: str) -> str | None:
    """The known key that the user may have meant: one of the same name in another section, or a similar one."""
    known = keys()
    # The right key in the wrong section is a more likely mistake than a misspelled one.
    same_leaf = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    near = same_leaf or difflib.get_close_matches(key, [*known, *Recipe.model_fields], n=1)
    return near[0] if near else None


def _apply(content: dict[str, Any], setting: str) -> None:
    """Apply one `section.key=value` to nested dictionaries, in place."""
    key, equals, text = setting.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise CifmError(f"--set {setting}: not section.key=value", "for instance --set train.max_minutes=15")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text.strip()  # a word without quotes, such as `mlp`
    for name in names[:-1]:
        content = content.setdefault(name, {})
        if not isinstance(content, dict):
            raise CifmError(f"--set {setting}: {name} is not a section", "see `cifm recipes show xenium` for every key")
    content[names[-1]] = value


def to_toml(recipe: Recipe) -> str:
    """Format a recipe as TOML. `load` reads the same recipe back.

    Args:
        recipe: The recipe.

    Returns:
        TOML with every key that is not None.
    """
    # Only this function writes TOML; the standard library can read it only.
    import tomli_w

    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))
