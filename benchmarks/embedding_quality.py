"""What embeddings say about the surroundings of a cell, beside principal components of the mean expression around it.

    python benchmarks/embedding_quality.py prepared/SLIDE.h5ad --types annotated/SLIDE.csv --minutes 1.5 --out RESULT.json

The script trains a model on the slide (or takes `--model`), embeds all cells, and predicts by ridge regression

- the fractions of the cell types among the other cells within 50 and 100 um, and
- the mean expression of the 50 most expressed genes over the other cells within the radius of the graph.

The regression is fitted to cells of the training region, its penalty is chosen on the validation region, and R2 is that of the
test region. Compared are `X_cifm`, `X_cifm_cell`, the output of the encoder alone, and as many principal components, fitted to
the same training cells, of the mean expression within 1, 2.5 and 5 radii. The intervals are those of the difference between
`X_cifm` and each of them, from a bootstrap of square blocks of the test region. `participation` is the participation ratio of
the variances, (sum v)^2 / sum v^2: the effective number of dimensions.

With `--second`, another section is embedded by the same model, and `mixing` is the mean inverse Simpson index of the sections
among the 30 nearest cells of either section (iLISI, Korsunsky et al. 2019): 1 for sections apart, 2 for sections mixed.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from record import write_record
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide
    from cifm_cli.inference.loaded_model import LoadedModel

PACKAGES = ("numba", "numpy", "scikit-learn", "scipy", "torch")
RADII = (1.0, 2.5, 5.0)
WIDTHS_UM = (50.0, 100.0)
MAX_CELLS = {"train": 15_000, "validation": 8_000, "test": 8_000}
NUM_GENES, MIN_FRACTION = 50, 0.01
PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
BLOCK_RADII, RESAMPLES = 20, 1_000
NEIGHBOURS, MIXED_CELLS = 30, 4_000


@dataclass(frozen=True)
class Regions:
    """Sampled cells of the three regions, one after the other."""

    rows: NDArray[np.int64]
    train: slice
    validation: slice
    test: slice


def main() -> None:
    """Embed, predict, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path, help="a prepared slide with regions")
    parser.add_argument("--types", type=Path, help="CSV: name of a cell in the first column, and `cell_type`")
    parser.add_argument("--model", type=Path, help="a trained run in place of a training")
    parser.add_argument("--recipe", default="xenium")
    parser.add_argument("--minutes", type=float, default=1.5, help="duration of the training")
    parser.add_argument("--second", type=Path, help="another prepared section")
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = options.model or train(options.slide, Path(temporary) / "run", options)
        rows = measure(options.slide, run, options.types) if options.types else {}
        mixing = measure_mixing(run, options.slide, options.second) if options.second else {}
    for name, row in rows.items():
        print(f"{name:16}", "  ".join(f"{key} {value}" for key, value in row.items()))
    for name, value in mixing.items():
        print(f"{name:16} mixing {value:.2f}")
    if options.out:
        names = {"slide": options.slide.stem, "second": options.second.stem if options.second else None}
        write_record(
            options.out,
            PACKAGES,
            {**names, "minutes": None if options.model else options.minutes, "rows": rows, "mixing": mixing},
        )


def train(slide: Path, folder: Path, options: argparse.Namespace) -> Path:
    """Train a model on the slide."""
    from cifm_cli import recipe as recipes
    from cifm_cli.training.config import TrainConfig
    from cifm_cli.training.loop import train as run_training

    recipe = recipes.load(recipes.find(options.recipe), [f"train.max_minutes={options.minutes}"])
    run_training(TrainConfig(recipe, [slide], folder))
    return folder


def embed(run: Path, path: Path) -> tuple[LoadedModel, Slide, dict[str, NDArray[np.float32]]]:
    """Embed a slide, also by the encoder alone."""
    from cifm_cli.data.slide import open_slide
    from cifm_cli.embedding.embed import embed_cells
    from cifm_cli.inference.adaptation.option import open_adapted
    from cifm_cli.inference.loaded_model import load_model

    model, slide = open_adapted(load_model(run), open_slide(path), "slide", 0, profiles_only=True)
    found = embed_cells(model, slide)
    alone = replace(model, checkpoint=replace(model.checkpoint, readout=None))
    encoder = embed_cells(alone, slide, ["microenvironment"])["microenvironment"]
    return model, slide, {"X_cifm": found["microenvironment"], "X_cifm_cell": found["cell"], "encoder": encoder}


def measure(path: Path, run: Path, types: Path) -> dict[str, dict[str, object]]:
    """R2 and participation ratio of every representation of a slide."""
    from sklearn.decomposition import PCA

    model, slide, found = embed(run, path)
    regions = sample(slide)
    every = np.arange(slide.num_cells)
    expression = slide.expression(every, model.checkpoint.recipe.data.target_sum)
    features = {name: values[regions.rows] for name, values in found.items()}
    means = {
        radius: np.asarray((around(slide, regions.rows, radius * slide.radius_um) @ expression).todense())
        for radius in RADII
    }
    width = features["X_cifm"].shape[1]
    for radius, values in means.items():
        reduction = PCA(min(width, values.shape[1]), random_state=0).fit(values[regions.train])
        features[f"pca {radius:g} radii"] = reduction.transform(values)
    members = one_hot(slide, types)
    targets = {
        f"types {width_um:g} um": np.asarray((around(slide, regions.rows, width_um) @ members).todense())
        for width_um in WIDTHS_UM
    }
    top = np.argsort(-np.asarray(expression.mean(axis=0)).ravel())[:NUM_GENES]
    targets["expression"] = means[1.0][:, top]
    blocks = np.floor(slide.xy_um[regions.rows[regions.test]] / (BLOCK_RADII * slide.radius_um))
    _, block = np.unique(blocks, axis=0, return_inverse=True)
    rows: dict[str, dict[str, object]] = {
        name: {"width": x.shape[1], "participation": participation(x[regions.train])} for name, x in features.items()
    }
    for target, y in targets.items():
        total = np.square(y[regions.test] - y[regions.train].mean(axis=0)).sum(axis=1)
        left = {name: errors(x, y, regions) for name, x in features.items()}
        for name, own in left.items():
            low, high = interval(own, left["X_cifm"], total, block.ravel())
            rows[name][target] = round(float(1 - own.sum() / total.sum()), 3)
            if name != "X_cifm":
                rows[name][f"{target}: X_cifm minus this"] = [round(low, 3), round(high, 3)]
    return rows


def sample(slide: Slide) -> Regions:
    """Draw cells of each region."""
    generator = np.random.default_rng(0)
    drawn = []
    for name, number in MAX_CELLS.items():
        rows = slide.region(name)
        drawn.append(np.sort(generator.choice(rows, min(number, len(rows)), replace=False)))
    ends = np.cumsum([0, *map(len, drawn)])
    return Regions(np.concatenate(drawn), *(slice(a, b) for a, b in pairwise(ends)))


def around(slide: Slide, rows: NDArray[np.int64], radius_um: float) -> csr_matrix:
    """(n, N) weights of the mean over the other cells with counts within a radius."""
    tree = cKDTree(slide.xy_um[rows])
    pairs = tree.sparse_distance_matrix(cKDTree(slide.xy_um), radius_um, output_type="ndarray")
    pairs = pairs[(rows[pairs["i"]] != pairs["j"]) & (slide.total_counts[pairs["j"]] > 0)]
    number = np.maximum(np.bincount(pairs["i"], minlength=len(rows)), 1)
    weights = (1 / number[pairs["i"]]).astype(np.float32)
    return csr_matrix((weights, (pairs["i"], pairs["j"])), (len(rows), slide.num_cells))


def one_hot(slide: Slide, types: Path) -> csr_matrix:
    """(N, T) the type of each cell, of the types of at least one in a hundred cells."""
    table = pd.read_csv(types, dtype=str).set_index(pd.read_csv(types, dtype=str).columns[0])
    named = table["cell_type"].reindex([str(name) for name in slide.barcodes(np.arange(slide.num_cells))]).fillna("")
    kinds, codes = np.unique(named.to_numpy(str), return_inverse=True)
    member = csr_matrix((np.ones(len(codes), np.float32), (np.arange(len(codes)), codes)), (len(codes), len(kinds)))
    return member[:, np.asarray(member.mean(axis=0)).ravel() >= MIN_FRACTION]


def errors(features: NDArray[np.float32], target: NDArray[np.float32], regions: Regions) -> NDArray[np.float64]:
    """Squared error of each test cell, with the penalty of the smallest error on the validation region."""
    x, y = features.astype(np.float64), target.astype(np.float64)
    x = (x - x[regions.train].mean(axis=0)) / (x[regions.train].std(axis=0) + 1e-6)
    mean = y[regions.train].mean(axis=0)
    values, vectors = np.linalg.eigh(x[regions.train].T @ x[regions.train])
    right = vectors.T @ (x[regions.train].T @ (y[regions.train] - mean))
    squared = [
        np.square(y - mean - x @ (vectors @ (right / (values + penalty)[:, None]))).sum(axis=1) for penalty in PENALTIES
    ]
    return min(squared, key=lambda each: each[regions.validation].sum())[regions.test]


def interval(
    other: NDArray[np.float64], own: NDArray[np.float64], total: NDArray[np.float64], block: NDArray[np.int64]
) -> tuple[float, float]:
    """95 % bootstrap interval of the difference in R2."""
    sums = np.stack([np.bincount(block, x) for x in (other - own, total)])
    drawn = np.random.default_rng(0).integers(0, sums.shape[1], (RESAMPLES, sums.shape[1]))
    gained, varied = sums[:, drawn].sum(axis=2)
    low, high = np.quantile(gained / varied, [0.025, 0.975])
    return float(low), float(high)


def participation(features: NDArray[np.float32]) -> float:
    """Effective number of dimensions."""
    variances = np.linalg.eigvalsh(np.cov(features.astype(np.float64).T))
    return round(float(variances.sum() ** 2 / np.square(variances).sum()), 1)


def measure_mixing(run: Path, first: Path, second: Path) -> dict[str, float]:
    """Mean inverse Simpson index of two sections for every representation."""
    from sklearn.decomposition import PCA

    (model, slide, one), (_, other, two) = embed(run, first), embed(run, second)
    found = {name: (one[name], two[name]) for name in one}
    target_sum = model.checkpoint.recipe.data.target_sum
    genes = [gene for gene in slide.gene_ids if gene in other.columns]
    means = []
    for each in (slide, other):
        expression = each.expression(np.arange(each.num_cells), target_sum)[:, [each.columns[gene] for gene in genes]]
        weights = around(each, np.arange(each.num_cells), each.radius_um)
        means.append(np.asarray((weights @ expression).todense()))
    reduction = PCA(one["X_cifm"].shape[1], svd_solver="randomized", random_state=0).fit(np.concatenate(means))
    found["pca 1 radii"] = (reduction.transform(means[0]), reduction.transform(means[1]))
    generator = np.random.default_rng(0)
    size = min(MIXED_CELLS, slide.num_cells, other.num_cells)  # as many of each
    rows = [np.sort(generator.choice(each.num_cells, size, replace=False)) for each in (slide, other)]
    mixing = {}
    for name, pair in found.items():
        x = np.concatenate([values[chosen] for values, chosen in zip(pair, rows, strict=True)])
        x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
        _, near = cKDTree(x).query(x, NEIGHBOURS + 1)
        fraction = (near[:, 1:] >= size).mean(axis=1)
        mixing[name] = float((1 / (fraction**2 + (1 - fraction) ** 2)).mean())
    return mixing


if __name__ == "__main__":
    main()
