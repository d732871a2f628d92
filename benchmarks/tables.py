"""Write the table of whole commands in docs/backends.md from the newest result of each benchmark.

    python benchmarks/tables.py

The table and the plot of a single layer are written by `plot.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from record import Result, read_newest, replace_section

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Write one or more table rows for each benchmark with a result."""
    lines = ["| measured | threads | result |", "|---|---|---|"]
    for name, describe in DESCRIBED.items():
        if newest := read_newest(name):
            lines += [f"| {what} | {threads} | {result} |" for what, threads, result in describe(newest)]
    print("\n".join(lines))
    replace_section("commands", "\n".join(lines))


def embed(result: Result) -> list[tuple[str, object, str]]:
    """Rows of `bench_embed.py`: speed, also relative to the matrix products and to the literal layer."""
    options, rows = result["options"], []
    for width, ratios in result["ratios"].items():
        speed = next(row for row in result["rows"] if (row["form"], str(row["width"])) == ("embed", width))
        relative = f"for one level {ratios['embed over literal']:.0f}x the speed of the literal layer"
        if options["precision"] == "float32":
            relative = f"{ratios['embed over products']:.0%} of the speed of its matrix products alone, {relative}"
        what = f"`embed`, {options['cells']:,} cells, D = {int(width):,}, {options['layers']} layers, {options['precision']}"
        rows.append((what, options["threads"], f"{speed['cells_per_second']:,.0f} cells/s; {relative}"))
    return rows


def train_step(result: Result) -> list[tuple[str, object, str]]:
    """Row of `bench_train_step.py`: time of a step and the fraction spent in the model."""
    time = f"{result['step_s']:.2f} s, of which {result['shares']['model']:.0%} in the model"
    return [(f"a step of `train`, xenium recipe, {result['slide']}", result["threads"], time)]


def paper_100m(result: Result) -> list[tuple[str, object, str]]:
    """Row of `bench_paper_100m.py`: a training step of a network of the paper's size."""
    speed = f"{result['seconds_per_step']:.1f} s, {result['cells_per_second']:,.0f} cells/s, {result['peak_gb']:.1f} GB"
    return [("a step of `train`, paper_100m recipe, 18,289 genes", result["threads"], speed)]


def evaluate(result: Result) -> list[tuple[str, object, str]]:
    """Rows of `bench_evaluate.py`: tuning and scoring of all baselines."""
    return [
        (
            f"`evaluate` without a model, {row['cells']:,} cells x {row['genes']} genes, {row['geometry']}",
            result["threads"],
            f"{row['seconds']:.0f} s, {row['peak_gb']:.1f} GB",
        )
        for row in result["rows"]
    ]


def scale(result: Result) -> list[tuple[str, object, str]]:
    """Rows of `bench_scale.py`: commands on slides of millions of cells."""
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
    """Row of `bench_prepare.py`: time, also relative to reading the matrix with h5py and writing it with anndata."""
    download = result["download"]
    row = next(row for row in result["rows"] if row["form"] == "command")
    time = (
        f"{row['seconds']:.0f} s, {result['ratios']['command']:.1f}x the time to read the matrix and write it;"
        f" {row['peak_gb']:.1f} GB"
    )
    return [(f"`prepare`, {download['cells'] / 1e6:.0f} million cells x {download['genes']:,} genes", "", time)]


def kill_training(result: Result) -> list[tuple[str, object, str]]:
    """Row of `kill_training.py`: interrupted runs whose result differs from that of an uninterrupted run."""
    kills = sum(result["kills"].values())
    failures = f"{len(result['failures'])} results that differ from an uninterrupted run"
    return [(f"training and embedding, killed {kills} times and resumed", "", failures)]


DESCRIBED: dict[str, Callable[[Result], list[tuple[str, object, str]]]] = {
    "embed": embed,
    "embed-bfloat16": embed,
    "train-step": train_step,
    "paper-100m": paper_100m,
    "evaluate": evaluate,
    "scale": scale,
    "prepare-1m-cells": prepare,
    "kill-training": kill_training,
}


if __name__ == "__main__":
    main()
