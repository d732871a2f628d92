"""Prediction of genes that a model was not trained on, with weights derived from their co-expression with known genes.

    python benchmarks/bench_new_genes.py prepared/xenium_pancreas.h5ad --minutes 3

The script trains a model on a random half of the genes of a slide, and one on all genes. Then it hides cells of the validation
region of the slide with all genes, and prints errors of known and of new genes: for the smoother alone, for the model of half
of the genes with neutral and with derived weights for the others, and for the model of all genes. The blends of the smoother
are fitted to the slide with all genes in every case. The depth of a cell is that over all genes.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from record import write_record

if TYPE_CHECKING:
    from cifm_cli.model.ensemble import Ensemble
    from cifm_cli.training.session import Session

PACKAGES = ("numba", "numpy", "scipy", "torch")
NUM_TILES = 24


def main() -> None:
    """Train both models, and print the errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path, help="a prepared slide")
    parser.add_argument("--minutes", type=float, default=3.0, help="duration of each training")
    parser.add_argument("--steps", type=int, default=1500, help="largest number of steps of each training")
    parser.add_argument("--folder", type=Path, help="keep the runs in this folder, and use those that are there")
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        half, whole = write_slides(options.slide, folder)
        for slide in (half, whole):
            train(slide, folder / slide.stem, options)
        result = compare(folder, whole)
    for name, row in result.items():
        print(f"{name:10}", "  ".join(f"{key} {value:.5f}" for key, value in row.items()))
    if options.out:
        write_record(options.out, PACKAGES, {"slide": options.slide.stem, "minutes": options.minutes, **result})


def write_slides(slide: Path, folder: Path) -> tuple[Path, Path]:
    """Write the slide with half of its genes, and with all; without checksums, as one of them is changed."""
    import anndata as ad

    content = ad.read_h5ad(slide)
    content.uns["cifm"].pop("content", None)
    content.obs = content.obs.drop(columns="cifm_checksum", errors="ignore")
    order = np.random.default_rng(0).permutation(content.n_vars)
    paths = folder / "half.h5ad", folder / "whole.h5ad"
    content[:, np.sort(order[: content.n_vars // 2])].copy().write_h5ad(paths[0])
    content.write_h5ad(paths[1])
    return paths


def train(slide: Path, run: Path, options: argparse.Namespace) -> None:
    """Train one network on a slide, unless the folder of the run is there."""
    from cifm_cli import recipe
    from cifm_cli.training import loop
    from cifm_cli.training.config import TrainConfig

    settings = ["model.members=1", f"train.max_minutes={options.minutes}", f"train.steps={options.steps}"]
    settings += ["train.validate_every=300", "data.tile_cells=1024", "train.average=0.995"]
    if not run.exists():
        loop.train(TrainConfig(recipe.load(recipe.find("xenium"), settings), [slide], run))


def open_run(run: Path, slide: Path) -> Session:
    """Open a fine-tuning of a run on a slide at step 0, with the parameters of the slide fitted."""
    from cifm_cli.training.config import TrainConfig
    from cifm_cli.training.distributed import Processes
    from cifm_cli.training.initialise import fit_slides
    from cifm_cli.training.session import open_session

    with tempfile.TemporaryDirectory() as temporary:
        config = TrainConfig(run / "recipe.toml", [slide], Path(temporary) / "run", init=run)
        session = open_session(config, Processes())
    fit_slides(session)
    session.network.eval()
    return session


def compare(folder: Path, slide: Path) -> dict[str, dict[str, float]]:
    """Errors of every form of prediction."""
    import torch

    from cifm_cli.model.checkpoint import load_checkpoint
    from cifm_cli.model.growth import grow

    known = load_checkpoint(folder / "half")
    derived, trained = (open_run(folder / name, slide) for name in ("half", "whole"))
    new = set(derived.corpus.vocabulary) - set(known.vocabulary)
    neutral = grow(known.network, known.recipe, known.vocabulary, derived.corpus.vocabulary)
    smoother = grow(known.network, known.recipe, known.vocabulary, derived.corpus.vocabulary)
    for name, weight in smoother.named_parameters():
        if any(f".head.{part}" in name for part in ("magnitude", "logit", "composition", "expected", "smoother")):
            torch.nn.init.zeros_(weight)
    return {
        "smoother": errors(derived, smoother, new),
        "neutral": errors(derived, neutral, new),
        "derived": errors(derived, derived.network, new),
        "trained": errors(trained, trained.network, new),
    }


def errors(session: Session, network: Ensemble, new: set[str]) -> dict[str, float]:
    """Mean squared errors and log losses of P(expressed), of known and of new genes, and log loss of the composition per count."""
    import torch
    from torch.nn import functional

    is_new = np.array([gene in new for gene in session.corpus.vocabulary])
    squared, log_loss = np.zeros(2), np.zeros(2)
    composition, num_counts, num_cells = 0.0, 0.0, 0
    for number in range(NUM_TILES):
        example = session.corpus.draw_example(session.corpus.slides[0], "validation", "new genes", number)
        with torch.no_grad():
            output = network(session.backend, example.tile)
        values, counts = example.target.values, example.target.counts
        error = (output.magnitude - values).square()
        loss = functional.binary_cross_entropy_with_logits(output.logit, (values > 0).float(), reduction="none")
        columns = torch.from_numpy(is_new[example.tile.genes.numpy()])
        for group, chosen in enumerate((~columns, columns)):
            squared[group] += float(error[:, chosen].mean(1).sum())
            log_loss[group] += float(loss[:, chosen].mean(1).sum())
        if output.composition is not None:
            composition -= float((counts * output.composition.log_softmax(1)).sum())
        num_counts, num_cells = num_counts + float(counts.sum()), num_cells + len(values)
    return {
        "mse_known": squared[0] / num_cells,
        "mse_new": squared[1] / num_cells,
        "log_loss_known": log_loss[0] / num_cells,
        "log_loss_new": log_loss[1] / num_cells,
        "composition": composition / num_counts,
    }


if __name__ == "__main__":
    main()
