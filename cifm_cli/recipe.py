"""Recipes: TOML in, frozen models out, every mistake reported at once."""

from __future__ import annotations

import difflib
import tomllib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

Share = Annotated[float, Field(gt=0, lt=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


class DataRecipe(_Section):
    """What the network reads."""

    radius_um: float | None = Field(default=None, gt=0)
    """Radius of the graph in micrometres; the prepared slide's own when absent."""
    target_sum: float = Field(default=10_000.0, gt=0)
    """Counts of a cell are scaled to this sum before log1p."""
    tile_cells: int = Field(default=1_024, ge=16)
    """Core cells of a tile; its halo comes on top."""


class ModelRecipe(_Section):
    """The void-invariant network."""

    message: Literal["factored", "mlp"] = "factored"
    """Form of Eqs 11-14: `factored` (products on cells only) or `mlp` (as printed, an MLP on every edge)."""
    width: int = Field(default=128, ge=4)
    """Features of a cell, D."""
    encoder_layers: int = Field(default=2, ge=1)
    """Message-passing layers of the encoder."""
    decoder_layers: int = Field(default=2, ge=1)
    """Message-passing layers of the decoder."""
    heads: int = Field(default=4, ge=1)
    """Intensities per edge, each weighing D / heads channels (`factored` only)."""
    radial: int = Field(default=6, ge=1)
    """Radial basis functions of the distance (`factored` only)."""
    mlp_layers: int = Field(default=2, ge=2)
    """Linear maps in each bias-free MLP."""
    norm: bool = True
    """Normalise features without bias, so that void stays void."""
    residual: bool = True
    """Add each layer's update to its input; Eq. 14 as printed has no residual."""
    self_loops: bool = False
    """Let a cell send itself a message; the paper's adjacency (distance <= radius) does."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"model.heads = {self.heads} does not divide model.width = {self.width}")
        if self.message == "mlp" and not (self.residual or self.self_loops):
            raise ValueError(
                "model.message = 'mlp' without residual needs model.self_loops = true, or a lone cell is lost"
            )
        return self


class MaskRecipe(_Section):
    """Which cells are hidden while training (Eq. 2)."""

    share: Share = 0.05
    """Smallest share of the cells of a tile that is masked."""
    share_max: Share | None = None
    """Largest share, drawn uniformly from [share, share_max] for every tile; `share` when absent."""
    contiguous: float = Field(default=0.0, ge=0, le=1)
    """Share of tiles whose masked cells form one patch instead of lying scattered; the paper has none."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.share_max is not None and self.share_max < self.share:
            raise ValueError(f"mask.share_max = {self.share_max} is below mask.share = {self.share}")
        return self


class ObjectiveRecipe(_Section):
    """What the prediction starts from and what is minimised."""

    name: Literal["balanced_mse", "residual"] = "residual"
    """`balanced_mse` (Eq. 15) or `residual`: squared error of a learned correction to a smoother."""
    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.5, 1.0, 2.0, 4.0), min_length=1)
    """Standard deviations of the smoother's Gaussian weights, in radii (`residual` only)."""
    cutoff: float = Field(default=6.0, gt=0)
    """Distance at which the smoother ends, in radii (`residual` only)."""
    expressed_weight: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy of P(expressed)."""


class TrainRecipe(_Section):
    """The loop."""

    steps: int = Field(default=4_000, ge=1)
    """Optimiser steps; the learning rate's cosine ends here, or at `max_minutes` if that comes first."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Stop after this time and keep the best checkpoint."""
    tiles_per_step: int = Field(default=1, ge=1)
    """Tiles whose losses are averaged in a step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of the schedule."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay, on matrices only."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps of linear warm-up."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    validate_every: int = Field(default=200, ge=1)
    """Steps between looks at the validation region."""
    validation_tiles: int = Field(default=8, ge=1)
    """Tiles of each slide's validation region scored at every look, always the same."""
    patience: int = Field(default=10, ge=1)
    """Looks without a new best before training stops early."""


class Recipe(_Section):
    """A whole recipe; its sections are the tables of the TOML file."""

    description: str = ""
    """One line, shown by `cifm recipes list`."""
    data: DataRecipe = DataRecipe()
    model: ModelRecipe = ModelRecipe()
    mask: MaskRecipe = MaskRecipe()
    objective: ObjectiveRecipe = ObjectiveRecipe()
    train: TrainRecipe = TrainRecipe()


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
    if path.is_file():
        return path
    recipes = shipped()
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
        if isinstance(section, type) and issubclass(section, _Section):
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
