"""A folder of prepared slides as one corpus.

Its index is read from the slides each time and stored nowhere, so it cannot go stale: a slide tells what is asked of it
without its counts being read, a million cells in milliseconds.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np
from anndata.io import read_elem

from cifm_cli import keys
from cifm_cli.data.writers.prepared import read_about
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FACTS = (keys.PLATFORM, keys.RADIUS_UM, keys.CONDITION, keys.TISSUE, keys.SAMPLE)


class _Entry(NamedTuple):
    """A slide: its genes, the sizes of its regions, and what it says of itself."""

    genes: frozenset[str]
    split: dict[str, int]
    facts: dict[str, Any]


def is_corpus(paths: Sequence[Path]) -> bool:
    """Whether files are prepared slides, all of them."""
    return all(read_about(path) is not None for path in paths)


def describe_corpus(paths: Sequence[Path]) -> dict[str, Any]:
    """What prepared slides hold together and one by one, for `cifm inspect`.

    Args:
        paths: Prepared slides, at least one.

    Returns:
        Cells, the genes of the union vocabulary and those that every slide measures, platforms, split sizes, and the
        same of each slide by name, with condition, tissue and sample.

    Raises:
        CifmError: A slide is damaged.
    """
    entries = {path.stem: _read(path) for path in paths}
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
    """A corpus as rows of text: a header, the slides, their sum.

    Args:
        corpus: What `describe_corpus` returned.

    Returns:
        Rows of the same length.
    """
    header = ["slide", "cells", "genes", *keys.REGIONS, *_FACTS]
    rows = [_row(name, slide) + [_show(slide[key]) for key in _FACTS] for name, slide in corpus["slides"].items()]
    together = _row(f"all {len(rows)}", {**corpus, "genes": corpus["genes"]["union"]})
    return [header, *rows, [*together, f"{corpus['genes']['shared']:,} genes shared", *["-"] * (len(_FACTS) - 1)]]


def _row(name: str, entry: dict[str, Any]) -> list[str]:
    return [name, *(f"{number:,}" for number in (entry["cells"], entry["genes"], *entry["split"].values()))]


def _show(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) or "-"


def _read(path: Path) -> _Entry:
    about = read_about(path)
    try:
        with h5py.File(path, "r") as file:
            genes = read_elem(file["var"]).index
            split = read_elem(file[f"obs/{keys.SPLIT}"])
            facts = {key: about[key] for key in _FACTS} if about else {}
    except (OSError, KeyError) as error:
        raise CifmError(f"{path}: a damaged slide ({error})", "make it anew with `cifm prepare DOWNLOAD`") from error
    sizes = split.value_counts()
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in facts.items()}
    return _Entry(frozenset(genes), {region: int(sizes.get(region, 0)) for region in keys.REGIONS}, plain)
