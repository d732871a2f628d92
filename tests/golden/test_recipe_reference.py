"""docs/recipes.md is made from the docstrings of the recipe classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cifm_cli.recipe import Recipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"

HEAD = """\
# Recipes

A recipe is a TOML file with six sections. Every key has a default. An unknown key is an error, with a similar known key
as a hint, and all mistakes are shown at once.

```bash
cifm recipes list
cifm recipes copy xenium mine.toml        # then edit it
cifm recipes check mine.toml
cifm train mine.toml --set train.max_minutes=15
```

`description` is the line that `cifm recipes list` shows. `pytest tests/golden --regenerate` writes this page.

## Which recipe

| recipe | for |
|---|---|
| `xenium`, `visium`, `visium_hd` | one slide, or several of one platform: the model predicts held-out regions of these very slides |
| `pretrain` | several slides of any platform: the model is for other slides, to which it is [adapted](adaptation.md) |
| `finetune` | one slide, from a model of the recipe `pretrain` (`--init`) |
| `paper_xenium`, `paper_visium_hd`, `paper_100m` | the pipeline of the paper, and the size of its model |
| `demo` | the synthetic tissue of `cifm demo` |

[training](training.md#a-model-for-other-slides) describes `pretrain` and `finetune`.
"""


def format_default(value: Any) -> str:
    if value is None:
        return "absent"
    return f"`{str(value).lower() if isinstance(value, bool) else list(value) if isinstance(value, tuple) else value}`"


def render() -> str:
    page = HEAD
    for name, field in Recipe.model_fields.items():
        keys = getattr(field.annotation, "model_fields", None)
        if keys:
            rows = [
                f"| `{key}` | {format_default(inner.default)} | {inner.description} |" for key, inner in keys.items()
            ]
            page += "\n".join(
                [f"\n## [{name}]", "", field.annotation.__doc__, "", "| key | default | |", "|---|---|---|", *rows]
            )
            page += "\n"
    return page


def test_the_recipe_reference_is_current(regenerate: bool) -> None:
    if regenerate:
        PAGE.write_text(render(), encoding="utf8")
    assert PAGE.read_text(encoding="utf8") == render(), "pytest tests/golden --regenerate"
