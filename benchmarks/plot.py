"""Plot a result of `bench_layer.py` and write its table into docs/backends.md.

    python benchmarks/plot.py [RESULT.json]

Without an argument, the newest `benchmarks/results/DATE-layer.json` is used. The plot is written beside the result as
`.svg`. The table and a link to the plot replace the `layer` section of docs/backends.md.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from record import PAGE, RESULTS, replace_section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {
    "torch": "torch, gather and index_add",
    "dgl": "DGL, g-SDDMM and g-SpMM",
    "fused": "fused",
    "fused_bfloat16": "fused, bfloat16 storage",
    "products": "matrix products of the layer",
    "literal": "literal layer, MLPs on edges",
}
COLOURS = ("#8a8f98", "#c0603f", "#1f6f8b", "#79b4c4", "#d9dce1", "#5b4a72")


def main() -> None:
    """Write the plot and the table of one result."""
    paths = [Path(word) for word in sys.argv[1:]] or sorted(RESULTS.glob("????-??-??-layer.json"))[-1:]
    if not paths:
        raise SystemExit(f"no result in {RESULTS}; run benchmarks/bench_layer.py --out first")
    path = paths[-1]
    result = json.loads(path.read_text())
    draw(result, path.with_suffix(".svg"))
    table = format_table(result)
    print(table)
    plot = path.with_suffix(".svg").resolve().relative_to(PAGE.parents[1])
    replace_section("layer", f"{table}\n\n![cells per second and memory of each form of the layer](../{plot})")


def format_table(result: dict[str, Any]) -> str:
    """Format the speed and memory of all forms as a Markdown table.

    Args:
        result: Content of a file that `bench_layer.py` wrote.

    Returns:
        The table, preceded by a line that describes the measurement.
    """
    machine, options = result["machine"], result["options"]
    what = "One layer: cells per second, and peak memory as a multiple of the size of its inputs Q, K, A and B."
    where = f"{result['date']}, {machine['cpu']}, {options['threads']} of {machine['cores']} cores"
    lines = [
        f"{what} {where}, {options['degree']} neighbours per cell, D features per cell.",
        "",
        "| D | | cells | forward | forward and backward | relative to torch | memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        gain = speedup(result, row)
        memory = row["both_gib"] / row["node_gib"]
        lines.append(
            f"| {row['width']:,} | {LABELS[row['form']]} | {row['cells']:,} | {row['forward_cells_per_s']:,.0f} |"
            f" {row['both_cells_per_s']:,.0f} | {gain} | {memory:.1f} |"
        )
    return "\n".join(lines)


def speedup(result: dict[str, Any], row: dict[str, Any]) -> str:
    """Speed of forward and backward as a multiple of that of plain torch; empty if torch was not measured."""
    for other in result["rows"]:
        if (other["form"], other["width"]) == ("torch", row["width"]):
            return f"{row['both_cells_per_s'] / other['both_cells_per_s']:.2g}x"
    return ""


def draw(result: dict[str, Any], target: Path) -> None:
    """Draw bar charts of speed and memory with one group of bars per width.

    Args:
        result: Content of a file that `bench_layer.py` wrote.
        target: The `.svg` file to write.
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "cifm"})  # the same result always gives the same bytes
    import matplotlib.pyplot as plt

    figure, (speed, memory) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    draw_bars(speed, result, {"both_cells_per_s": 1.0})
    speed.set(yscale="log", title="cells per second, forward and backward")
    draw_bars(memory, result, {"both_gib": 1.0, "node_gib": -1.0})
    memory.set(yscale="log", title="peak memory over that of the node tensors")
    figure.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(target, metadata={"Date": None})


def draw_bars(axes: Axes, result: dict[str, Any], powers: dict[str, float]) -> None:
    """Draw one bar per form and width; `powers` maps keys of a row to exponents, and the height is the product."""
    widths = sorted({row["width"] for row in result["rows"]})
    for number, (form, colour) in enumerate(zip(LABELS, COLOURS, strict=True)):
        rows = [row for row in result["rows"] if row["form"] == form]
        places = [widths.index(row["width"]) + number / (len(LABELS) + 1) for row in rows]
        heights = [1.0] * len(rows)
        for key, power in powers.items():
            heights = [height * row[key] ** power for height, row in zip(heights, rows, strict=True)]
        bars = axes.bar(places, heights, width=1 / (len(LABELS) + 1), color=colour, label=LABELS[form])
        axes.bar_label(bars, fmt=short, fontsize=7)
    axes.set_xticks([position + 0.36 for position in range(len(widths))], [f"D = {width:,}" for width in widths])
    axes.spines[["top", "right"]].set_visible(False)


def short(height: float) -> str:
    """Format a number with k for thousands, so that the labels of neighbouring bars do not overlap."""
    if height >= 1000:
        return f"{height / 1000:.2g}k"
    return f"{height:.0f}" if height >= 100 else f"{height:.2g}"


if __name__ == "__main__":
    main()
