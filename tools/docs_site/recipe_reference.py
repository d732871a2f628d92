"""The recipe reference: keys, defaults and meaning from the recipe classes, and the recipes that come with cifm."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
# Recipe keys

All tables and keys of a recipe with their defaults. [Recipes](recipes.md) describes how recipes are written and which one to use. This
page is made from the code.
"""


def render_recipes() -> str:
    """Return the page in Markdown."""
    from cifm_cli.recipe import Recipe

    page = HEAD
    for name, field in Recipe.model_fields.items():
        keys = getattr(field.annotation, "model_fields", None)
        if keys:
            rows = [f"| `{key}` | {_default(inner.default)} | {inner.description} |" for key, inner in keys.items()]
            text = [
                f"\n## [{name}]",
                "",
                str(field.annotation.__doc__),
                "",
                "| key | default | |",
                "|---|---|---|",
                *rows,
            ]
            page += "\n".join(text) + "\n"
    return page + _included()


def _default(value: object) -> str:
    if value is None:
        return "absent"
    return f"`{str(value).lower() if isinstance(value, bool) else list(value) if isinstance(value, tuple) else value}`"


def _included() -> str:
    """The recipes that come with cifm, with their texts."""
    page = "\n## Recipes that come with cifm\n"
    for path in sorted((ROOT / "recipes").glob("*.toml")):
        text = path.read_text(encoding="utf8")
        description = tomllib.loads(text).get("description", "")
        page += f"\n### {path.stem}\n\n{description}\n\n```toml\n{text.rstrip()}\n```\n"
    return page
