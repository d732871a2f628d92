"""Cell types of predicted cells, as a table and a curve, for the terminal and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cifm_cli.report import plots
from cifm_cli.report.html import Image, Section, Table

if TYPE_CHECKING:
    from cifm_cli.evaluation.agreement import Types
    from cifm_cli.evaluation.type_overlap import Agreement

_EXPLANATION = (
    "Each cell is typed by its actual expression and by what was predicted for it; unassigned predictions disagree. "
    "The ceiling is the same cell with half of its counts taken away: what noise alone leaves of the agreement. drawn: "
    "counts drawn around the prediction, at the cell's own depth. sampled: a real cell of a state drawn from the model. "
    "Top 3: share of the three likeliest types in common. Confidence: mean probability of the likeliest type."
)


def typing_table(types: Types) -> tuple[list[str], list[list[str]], list[tuple[int, int]]]:
    """Predictors and forms against what can be said of their types.

    Args:
        types: Of actual and predicted expression.

    Returns:
        Column names, rows, and the (row, column) of the best accuracy of a predictor.
    """
    actual = ["actual", "1.000", "1.000", "1.000", "-", f"{types.confidence:.3f}", "100.0%"]
    found = {f"{name}, {form}": part for name, forms in types.found.items() for form, part in forms.items()}
    rows = [actual, ["ceiling: half of the counts", *_cells(types.ceiling)]]
    rows += [[name, *_cells(part)] for name, part in found.items()]
    best = max((part.accuracy for part in found.values()), default=0.0)
    marked = [(row, 1) for row, part in enumerate(found.values(), start=2) if part.accuracy == best]
    return ["predictor", "same type ↑", "balanced ↑", "top 3 ↑", "log loss ↓", "confidence", "assigned"], rows, marked


def typing_section(types: Types, title: str) -> Section:
    """What the report says of types.

    Args:
        types: Of actual and predicted expression.
        title: Slide and geometry.

    Returns:
        The table, and how much of the k likeliest types is in common.
    """
    return Section(f"{title}: {describe_typing(types)}", _EXPLANATION, Table(*typing_table(types)), _curves(types))


def describe_typing(types: Types) -> str:
    """What was typed, in a few words."""
    return f"cell types of {int(types.typed.sum()):,} cells"


def _cells(found: Agreement) -> list[str]:
    top_3 = f"{found.top_k[2]:.3f}" if len(found.top_k) > 2 else "-"
    log_loss = "-" if found.log_loss is None else f"{found.log_loss:.2f}"
    return [
        f"{found.accuracy:.3f}",
        f"{found.balanced_accuracy:.3f}",
        top_3,
        log_loss,
        f"{found.confidence:.3f}",
        f"{found.assigned:.1%}",
    ]


def _curves(types: Types) -> list[Image]:
    """Overlap of the k likeliest types over k, of the mean forms."""
    series = {name: forms["mean"].top_k for name, forms in types.found.items()}
    series |= {"ceiling": types.ceiling.top_k, "chance": tuple(types.chance_top_k)}
    if not types.ceiling.top_k:
        return []
    title = "share of the k likeliest types in common"
    places = [float(k + 1) for k in range(len(types.chance_top_k))]
    return [Image(plots.curves(places, series, title, x_label="k", y_label="overlap"), f"{title}, mean forms")]
