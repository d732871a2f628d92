"""Random changes to the two parts of every download, the cell table and the count matrix; `fuzz_damage.py` applies them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz_inputs import Matrix

Rng = np.random.Generator


def _renamed(table: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    return table.rename(columns={rng.choice(list(table)): "other"})


def _lost(table: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    return table.drop(columns=rng.choice(list(table)))


def _exchanged(table: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    names = list(table)
    one, other = rng.choice(len(names), size=2, replace=False)
    names[one], names[other] = names[other], names[one]
    return table.set_axis(names, axis=1)


def _as(table: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    kind = rng.choice(["str", "float32", "uint8", "int64", "category", "bytes", "float16"])
    name = rng.choice(list(table))
    if kind == "bytes":
        return table.assign(**{name: [str(value).encode() for value in table[name]]})
    return table.assign(**{name: table[name].astype(kind)})


def _emptied(table: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    table = table.astype(object)
    table.iat[rng.integers(len(table)), rng.integers(table.shape[1])] = None
    return table.infer_objects()


def _far(table: pd.DataFrame, rng: Rng) -> pd.DataFrame:
    """Change one number as a flipped bit of its exponent would."""
    names = [name for name in table if table[name].dtype == np.float64]
    name, row, exponent = rng.choice(names), rng.integers(len(table)), 2.0 ** rng.choice([1, 2, 4, 8, 16, 32])
    table = table.copy()
    table.loc[table.index[row], name] *= exponent
    return table


TABLES: dict[str, Callable[[pd.DataFrame, Rng], pd.DataFrame]] = {
    "rows in another order": lambda table, rng: table.iloc[rng.permutation(len(table))],
    "columns in another order": lambda table, rng: table[rng.permutation(list(table)).tolist()],
    "a column more": lambda table, _: table.assign(more=1.5),
    "a column renamed": _renamed,
    "a column lost": _lost,
    "two columns exchanged": _exchanged,
    "a column of another type": _as,
    "a field empty": _emptied,
    "an exponent bit of a number": _far,
    "rows lost": lambda table, rng: table.iloc[: rng.integers(len(table))],
    "a row twice": lambda table, rng: pd.concat([table, table.iloc[[rng.integers(len(table))]]]),
    "one column shifted by a row": lambda table, rng: table.assign(
        **{(name := rng.choice(list(table))): np.roll(table[name].to_numpy(), 1)}
    ),
}


def _of_cells(matrix: Matrix, rows: np.ndarray[Any, Any]) -> Matrix:
    return matrix._replace(counts=matrix.counts[rows], barcodes=matrix.barcodes[rows])


def _of_features(matrix: Matrix, columns: np.ndarray[Any, Any]) -> Matrix:
    return matrix._replace(counts=matrix.counts[:, columns], features=matrix.features.iloc[columns])


def _swap(values: np.ndarray[Any, Any], rng: Rng) -> np.ndarray[Any, Any]:
    one, other = rng.choice(len(values), size=2, replace=False)
    values = values.copy()
    values[[one, other]] = values[[other, one]]
    return values


def _value(matrix: Matrix, change: Callable[[Any], Any], rng: Rng) -> Matrix:
    counts = matrix.counts.astype(np.float64)
    place = rng.integers(counts.nnz)
    counts.data[place] = change(counts.data[place])
    return matrix._replace(counts=counts)


def _mistyped(matrix: Matrix, column: str, rng: Rng) -> Matrix:
    texts, row = matrix.features[column].tolist(), rng.integers(len(matrix.features))
    place = rng.integers(len(texts[row]))
    texts[row] = texts[row][:place] + chr(ord(texts[row][place]) ^ 1) + texts[row][place + 1 :]
    return matrix._replace(features=matrix.features.assign(**{column: texts}))


def _swapped_names(matrix: Matrix, column: str, rng: Rng) -> Matrix:
    names = _swap(matrix.features[column].to_numpy(), rng)
    return matrix._replace(features=matrix.features.assign(**{column: names}))


MATRICES: dict[str, Callable[[Matrix, Rng], Matrix]] = {
    "cells in another order": lambda m, rng: _of_cells(m, rng.permutation(len(m.barcodes))),
    "features in another order": lambda m, rng: _of_features(m, rng.permutation(len(m.features))),
    "cells lost": lambda m, rng: _of_cells(m, np.arange(rng.integers(1, len(m.barcodes)))),
    "features lost": lambda m, rng: _of_features(m, np.arange(rng.integers(1, len(m.features)))),
    "a cell twice": lambda m, rng: _of_cells(m, np.append(np.arange(len(m.barcodes)), rng.integers(len(m.barcodes)))),
    "a feature twice": lambda m, rng: _of_features(
        m, np.append(np.arange(len(m.features)), rng.integers(len(m.features)))
    ),
    "names of features lost": lambda m, rng: m._replace(features=m.features.iloc[: rng.integers(len(m.features))]),
    "barcodes lost": lambda m, rng: m._replace(barcodes=m.barcodes[: rng.integers(len(m.barcodes))]),
    "two barcodes exchanged": lambda m, rng: m._replace(barcodes=_swap(m.barcodes, rng)),
    "barcodes shifted": lambda m, _: m._replace(barcodes=np.roll(m.barcodes, 1)),
    "two ids exchanged": lambda m, rng: _swapped_names(m, "id", rng),
    "two symbols exchanged": lambda m, rng: _swapped_names(m, "symbol", rng),
    "ids shifted": lambda m, _: m._replace(features=m.features.assign(id=np.roll(m.features["id"].to_numpy(), 1))),
    "an id mistyped": lambda m, rng: _mistyped(m, "id", rng),
    "a symbol mistyped": lambda m, rng: _mistyped(m, "symbol", rng),
    "symbols for ids": lambda m, _: m._replace(features=m.features.assign(id=m.features["symbol"])),
    "a count more": lambda m, rng: _value(m, lambda value: value + 1, rng),
    "a count huge": lambda m, rng: _value(m, lambda value: value * 2.0 ** rng.integers(8, 60), rng),
    "a count negative": lambda m, rng: _value(m, lambda value: -value, rng),
    "a count of a half": lambda m, rng: _value(m, lambda value: value + 0.5, rng),
    "a count missing": lambda m, rng: _value(m, lambda _: np.nan, rng),
    "counts as uint8": lambda m, _: m._replace(counts=m.counts.astype(np.uint8)),
    "counts as float32": lambda m, _: m._replace(counts=m.counts.astype(np.float32)),
    "counts as logarithms": lambda m, _: m._replace(counts=np.log1p(m.counts.astype(np.float64))),
    "turned": lambda m, _: m._replace(counts=m.counts.T.tocsr()),
}
