"""How well embeddings predict a label in samples that neither model, readout nor classifier has seen.

    python benchmarks/embedding_patients.py prepared/*.h5ad --label label --positive "invasive cancer" --ignore undetermined \
        --ignore unlabelled --runs runs/patients --minutes 2 --out benchmarks/results/embedding-patients.json

Sections of one patient have the same sample name (`cifm prepare --sample`). Each sample with the label is left out in turn: a
model is trained on all slides of the other samples, and a logistic regression on their labelled cells, with the penalty chosen on
one of these samples (the classifier of `cifm probe`). `--runs` is a folder with a run for each sample: what is missing is trained,
and runs of `cifm evaluate --leave-out sample` are taken as they are. The readout of every run is fitted anew by this version.

Compared are `X_cifm`, `X_cifm_cell`, the output of the encoder, and principal components of the expression and of the mean expression
of the other cells within the radius, fitted to all slides that the model is trained on. "centred" subtracts the mean of each slide
first, and "rotated" applies a random rotation as the readout does. Metrics are means over the samples, and intervals are those of
`X_cifm` minus each of the others, from a bootstrap of the samples.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from record import write_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide
    from cifm_cli.inference.loaded_model import LoadedModel

    Values = NDArray[np.float32]
    Features = dict[str, list[Values]]  # name to the (N, F) features of each slide with the label

PACKAGES = ("numba", "numpy", "scikit-learn", "scipy", "torch")
OWN = "X_cifm"
RESAMPLES = 1_000


@dataclass(frozen=True)
class Labelled:
    """The slides, and the labels of their cells."""

    paths: list[Path]
    slides: list[Slide]
    samples: list[str]  # of each slide
    is_positive: list[NDArray[np.bool_]]  # (N,) of each slide
    rows: list[NDArray[np.int64]]  # labelled cells of each slide; none of a slide without the label

    @property
    def with_label(self) -> list[int]:
        """Positions of the slides with the label."""
        return [number for number, rows in enumerate(self.rows) if len(rows)]


def main() -> None:
    """Train, embed, classify, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="+", help="prepared slides")
    parser.add_argument("--label", required=True)
    parser.add_argument("--positive", required=True)
    parser.add_argument("--ignore", action="append", default=[])
    parser.add_argument("--runs", type=Path, required=True, help="a folder with a run for each sample")
    parser.add_argument("--recipe", default="pretrain")
    parser.add_argument("--minutes", type=float, default=2.0, help="duration of each training")
    parser.add_argument(
        "--embeddings-only", action="store_true", help="without principal components, which take longest"
    )
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    labelled = read(options)
    tested = sorted({labelled.samples[number] for number in labelled.with_label})
    scores: dict[str, list[tuple[float, float]]] = {}
    for sample in tested:
        for name, features in represent(labelled, sample, options).items():
            scores.setdefault(name, []).append(classify(labelled, sample, features))
        print(sample, {name: [round(value, 3) for value in found[-1]] for name, found in scores.items()}, flush=True)
    rows = summarise({name: np.array(found) for name, found in scores.items()})
    for name, row in rows.items():
        print(f"{name:36}", "  ".join(f"{key} {value}" for key, value in row.items()))
    if options.out:
        facts = {"samples": tested, "recipe": options.recipe, "minutes": options.minutes, "load": os.getloadavg()[0]}
        write_record(options.out, PACKAGES, {**facts, "rows": rows})


def read(options: argparse.Namespace) -> Labelled:
    """Open the slides, and read their labels."""
    from cifm_cli.data.slide import open_slide

    slides = [open_slide(path) for path in options.slides]
    is_positive, rows = [], []
    for path, slide in zip(options.slides, slides, strict=True):
        names = read_column(path, options.label, slide.num_cells)
        is_positive.append(names == options.positive)
        rows.append(np.flatnonzero(~np.isin(names, ["", *options.ignore]) & (slide.total_counts > 0)))
    samples = [(slide.facts or {}).get("sample", slide.name) for slide in slides]
    return Labelled(options.slides, slides, samples, is_positive, rows)


def read_column(path: Path, column: str, num_cells: int) -> NDArray[np.str_]:
    """(N,) a categorical column of `obs`; empty where it is missing."""
    with h5py.File(path) as file:
        if column not in file["obs"]:
            return np.full(num_cells, "")
        group = file["obs"][column]
        return np.array([*group["categories"].asstr()[:], ""], dtype=str)[group["codes"][:]]


def represent(labelled: Labelled, sample: str, options: argparse.Namespace) -> Features:
    """Features of the slides with the label, fitted without a sample."""
    trained = [number for number, other in enumerate(labelled.samples) if other != sample]
    model = load(labelled, trained, options.runs / sample, options)
    found: Features = {OWN: [], "X_cifm_cell": [], "encoder": []}
    for number in labelled.with_label:
        for name, values in embed(model, labelled.slides[number]).items():
            found[name].append(values)
    return found if options.embeddings_only else found | components(labelled, trained, model)


def load(labelled: Labelled, trained: Sequence[int], run: Path, options: argparse.Namespace) -> LoadedModel:
    """The model of a run, which is trained if it does not exist, with a readout of this version."""
    from cifm_cli import recipe as recipes
    from cifm_cli.inference.loaded_model import load_model
    from cifm_cli.training.config import TrainConfig
    from cifm_cli.training.corpus import Corpus
    from cifm_cli.training.fit_readout import fit_readout
    from cifm_cli.training.loop import train

    paths = [labelled.paths[number] for number in trained]
    if not (run / "model.safetensors").is_file():
        recipe = recipes.load(recipes.find(options.recipe), [f"train.max_minutes={options.minutes}"])
        train(TrainConfig(recipe, paths, run))
    model = load_model(run)
    corpus = Corpus(paths, model.checkpoint.recipe, model.checkpoint.vocabulary)
    return replace(model, checkpoint=replace(model.checkpoint, readout=fit_readout(model, corpus, 0)))


def embed(model: LoadedModel, slide: Slide) -> dict[str, Values]:
    """Embeddings of a slide, and the output of the encoder."""
    from cifm_cli.embedding.embed import embed_cells
    from cifm_cli.inference.adaptation.option import open_adapted

    adapted, fitted = open_adapted(model, slide, "slide", 0, profiles_only=True)
    found = embed_cells(adapted, fitted)
    alone = replace(adapted, checkpoint=replace(adapted.checkpoint, readout=None))
    encoder = embed_cells(alone, fitted, ["microenvironment"])["microenvironment"]
    return {OWN: found["microenvironment"], "X_cifm_cell": found["cell"], "encoder": encoder}


def components(labelled: Labelled, trained: Sequence[int], model: LoadedModel) -> Features:
    """Principal components of the expression and of the mean expression around the cells."""
    from cifm_cli.embedding.features import neighbour_weights

    recipe = model.checkpoint.recipe
    found: Features = {}
    genes = [gene for gene in labelled.slides[0].gene_ids if all(gene in each.columns for each in labelled.slides)]
    own, around = [], []
    for slide in labelled.slides:
        every, radius_um = np.arange(slide.num_cells), slide.with_radius(recipe.data.radius_um).radius_um
        expression = slide.expression(every, recipe.data.target_sum)[:, [slide.columns[gene] for gene in genes]]
        own.append(expression.toarray())
        around.append((neighbour_weights(slide.xy_um, every, radius_um) @ expression).toarray())
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(recipe.model.width, recipe.model.width)))[0]
    for name, values in (("expression", own), ("mean", around)):
        centred = [each - each.mean(axis=0) for each in values]
        for kind, given in (("", values), (" centred", centred)):
            mean, loadings = fit_components(np.concatenate([given[number] for number in trained]), recipe.model.width)
            found[f"pca {name}{kind}"] = [(given[number] - mean) @ loadings for number in labelled.with_label]
        found[f"pca {name} centred rotated"] = [each @ rotation for each in found[f"pca {name} centred"]]
    return found | {"expression": [own[number] for number in labelled.with_label]}


def fit_components(values: Values, number: int) -> tuple[Values, Values]:
    """(G,) mean and (G, number) loadings of (N, G) values, from the products of cells, which are fewer than genes."""
    from scipy.linalg import eigh

    mean = values.mean(axis=0)
    centred = values - mean
    products = (centred @ centred.T).astype(np.float64)
    variances, vectors = eigh(products, subset_by_index=[len(values) - number, len(values) - 1])
    loadings = centred.T @ (vectors / np.sqrt(variances.clip(min=1e-9)))[:, ::-1]
    return mean, loadings.astype(np.float32)


def classify(labelled: Labelled, sample: str, features: list[Values]) -> tuple[float, float]:
    """ROC-AUC and balanced accuracy in a sample of a classifier of the others."""
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    from cifm_cli.embedding.classifier import ProbeCells, cross_validate
    from cifm_cli.embedding.folds import SAMPLE, Groups

    rows, with_label = labelled.rows, labelled.with_label
    chosen_values = [each[rows[number]] for each, number in zip(features, with_label, strict=True)]
    values = np.concatenate(chosen_values).astype(np.float32)
    codes = np.concatenate([each[chosen] for each, chosen in zip(labelled.is_positive, rows, strict=True)])
    xy_um = np.concatenate([each.xy_um[chosen] for each, chosen in zip(labelled.slides, rows, strict=True)])
    names, group = np.unique(np.repeat(labelled.samples, list(map(len, rows))), return_inverse=True)
    test = group == list(names).index(sample)
    cells = ProbeCells(codes.astype(np.int64), Groups(SAMPLE, group), xy_um, 2)
    found = cross_validate(values, cells, [(np.flatnonzero(~test), np.flatnonzero(test))], 0).probabilities[test]
    return (
        float(roc_auc_score(codes[test], found[:, 1])),
        float(balanced_accuracy_score(codes[test], found.argmax(axis=1))),
    )


def summarise(scores: dict[str, NDArray[np.float64]]) -> dict[str, dict[str, object]]:
    """Means over the samples, and intervals of the differences; (samples, 2) scores of each representation."""
    own = scores[OWN]
    drawn = np.random.default_rng(0).integers(0, len(own), (RESAMPLES, len(own)))
    rows: dict[str, dict[str, object]] = {}
    for name, found in scores.items():
        rows[name] = {"by sample": found.round(3).tolist()}
        for number, metric in enumerate(("roc_auc", "balanced_accuracy")):
            spread = np.quantile(found[drawn, number].mean(axis=1), [0.025, 0.975])
            minus = np.quantile((own - found)[drawn, number].mean(axis=1), [0.025, 0.975])
            rows[name] |= {
                metric: round(float(found[:, number].mean()), 3),
                f"{metric}: interval": spread.round(3).tolist(),
                f"{metric}: X_cifm minus this": minus.round(3).tolist(),
            }
    return rows


if __name__ == "__main__":
    main()
