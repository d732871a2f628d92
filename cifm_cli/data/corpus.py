"""Summaries of several prepared slides.

A summary is computed from the files each time and not stored, so it cannot be outdated. It does not read the counts,
and takes milliseconds for a million cells.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from cifm_cli import keys
from cifm_cli.data.metadata import read_metadata
from cifm_cli.data.slide import open_slide
from cifm_cli.path_text import file_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FACTS = (keys.PLATFORM, keys.RADIUS_UM, keys.CONDITION, keys.TISSUE, keys.SAMPLE)


class _Entry(NamedTuple):
    """The genes of a slide, the sizes of its regions, and the metadata in `_FACTS`."""

    genes: frozenset[str]
    split: dict[str, int]
    facts: dict[str, Any]


def is_corpus(paths: Sequence[Path]) -> bool:
    """Whether all files are prepared slides."""
    return all(keys.FORMAT in (read_metadata(path) or {}) for path in paths)  # other results of cifm have no format


def describe_corpus(paths: Sequence[Path]) -> dict[str, Any]:
    """Summarise prepared slides, for `cifm inspect`.

    Args:
        paths: Prepared slides, at least one.

    Returns:
        Number of cells, of genes measured on any slide and of genes measured on every slide; number of slides of each
        platform; sizes of the regions; and for each slide by name the same with condition, tissue and sample.

    Raises:
        CifmError: A slide is damaged.
    """
    entries = {file_name(path): _read(path) for path in paths}
    genes = [entry.genes for entry in entries.values()]
    split = {region: sum(entry.split[region] for entry in entries.values()) for region in keys.REGIONS}
    return {
        "kind": "corpus",
        "cells": sum(split.values()),
        "genes": {"union": len(frozenset.union(*genes)), "shared": len(frozenset.intersection(*genes))},
        "platforms": dict(Counter(str(entry.facts[keys.PLATFORM]) for entry in entries.values())),
        "split": split,
        "slides": {
            name: {"cells": sum(entry.split.values()), "genes": len(entry.genes), "split": entry.split, **entry.facts}
            for name, entry in entries.items()
        },
    }


def corpus_table(corpus: dict[str, Any]) -> list[list[str]]:
    """Format a summary as rows of a table: a header, the slides, and their sum.

    Args:
        corpus: Return value of `describe_corpus`.

    Returns:
        Rows of equal length.
    """
    header = ["slide", "cells", "genes", *keys.REGIONS, *_FACTS]
    rows = [_row(name, slide) + [_show(slide[key]) for key in _FACTS] for name, slide in corpus["slides"].items()]
    total = _row(f"all {len(rows)}", {**corpus, "genes": corpus["genes"]["union"]})
    return [header, *rows, [*total, f"{corpus['genes']['shared']:,} genes shared", *["-"] * (len(_FACTS) - 1)]]


def _row(name: str, entry: dict[str, Any]) -> list[str]:
    return [name, *(f"{number:,}" for number in (entry["cells"], entry["genes"], *entry["split"].values()))]


def _show(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) or "-"


def _read(path: Path) -> _Entry:
    slide = open_slide(path)
    facts = {**(slide.facts or {}), keys.RADIUS_UM: slide.radius_um}
    split = {region: len(slide.region(region)) for region in keys.REGIONS}
    return _Entry(frozenset(slide.gene_ids), split, {key: facts[key] for key in _FACTS})
