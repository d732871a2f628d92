"""Write what whole commands take into the README, from the newest result of each benchmark.

    python benchmarks/tables.py

The layer alone has a table and a plot of its own: `plot.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from record import Result, newest, write_between

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Write the table, a line or more for each result that is there."""
    lines = ["| measured | threads | result |", "|---|---|---|"]
    for name, describe in DESCRIBED.items():
        if found := newest(name):
            lines += [f"| {what} | {threads} | {result} |" for what, threads, result in describe(found)]
    print("\n".join(lines))
    write_between("commands", "\n".join(lines))


def embed(result: Result) -> list[tuple[str, object, str]]:
    """Speed beside the matrix products and the literal layer."""
    options, described = result["options"], []
    for width, ratios in result["ratios"].items():
        speed = next(row for row in result["rows"] if (row["form"], str(row["width"])) == ("embed", width))
        against = f"one level at {ratios['embed over literal']:.0f}x the speed of the literal layer"
        if options["precision"] == "float32":
            against = f"{ratios['embed over products']:.0%} of the speed of its bare matrix products, {against}"
        what = f"`embed`, {options['cells']:,} cells, D = {int(width):,}, {options['layers']} layers, {options['precision']}"
        described.append((what, options["threads"], f"{speed['cells_per_second']:,.0f} cells/s; {against}"))
    return described


def train_step(result: Result) -> list[tuple[str, object, str]]:
    """What a step of training spends its time on."""
    found = f"{result['step_s']:.2f} s, of which {result['shares']['model']:.0%} in the model"
    return [(f"a step of `train`, xenium recipe, {result['slide']}", result["threads"], found)]


def paper_100m(result: Result) -> list[tuple[str, object, str]]:
    """The network of the paper's size."""
    found = f"{result['seconds_per_step']:.1f} s, {result['cells_per_second']:,.0f} cells/s, {result['peak_gb']:.1f} GB"
    return [("a step of `train`, paper_100m recipe, 18,289 genes", result["threads"], found)]


def judge(result: Result) -> list[tuple[str, object, str]]:
    """Every baseline, tuned and scored."""
    return [
        (
            f"`evaluate` without a model, {row['cells']:,} cells x {row['genes']} genes, {row['geometry']}",
            result["threads"],
            f"{row['seconds']:.0f} s, {row['peak_gb']:.1f} GB",
        )
        for row in result["rows"]
    ]


def scale(result: Result) -> list[tuple[str, object, str]]:
    """Slides of millions of cells."""
    return [
        (
            f"`{row['command']}`, {row['cells'] / 1e6:.0f} million cells x {result['slide']['genes']} genes",
            result["threads"],
            f"{row['seconds']:,.0f} s, {row['peak_gb']:.1f} GB"
            + (f"; {row['scored']:,} scored" if "scored" in row else ""),
        )
        for row in result["rows"]
    ]


def prepare(result: Result) -> list[tuple[str, object, str]]:
    """Beside a copy by scanpy's reader and anndata's writer."""
    download = result["download"]
    row = next(row for row in result["rows"] if row["form"] == "command")
    found = (
        f"{row['seconds']:.0f} s, {result['ratios']['command']:.1f}x reading and writing it; {row['peak_gb']:.1f} GB"
    )
    return [(f"`prepare`, {download['cells'] / 1e6:.0f} million cells x {download['genes']:,} genes", "", found)]


def kill_training(result: Result) -> list[tuple[str, object, str]]:
    """Runs that were killed and gone on with."""
    kills = sum(result["kills"].values())
    found = f"{len(result['failures'])} results that are not the uninterrupted run's"
    return [(f"{kills} kills in training and embedding", "", found)]


DESCRIBED: dict[str, Callable[[Result], list[tuple[str, object, str]]]] = {
    "embed": embed,
    "embed-bfloat16": embed,
    "train-step": train_step,
    "paper-100m": paper_100m,
    "evaluate": judge,
    "scale": scale,
    "prepare-1m-cells": prepare,
    "kill-training": kill_training,
}


if __name__ == "__main__":
    main()
