"""Draw the pictures of the documentation from a folder that `cifm demo` has made.

    cifm demo --out cifm_demo && (cd cifm_demo && cifm predict prepared/demo.h5ad)
    python tools/draw_demo_pictures.py cifm_demo

The tissue is synthetic, so the pictures may be part of the repository. They are small: 256 colours, at most 800 pixels wide.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import matplotlib as mpl
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

mpl.use("Agg")
import matplotlib.pyplot as plt

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
# Figures that the commands of the demo write, and their names in the documentation.
COPIED = {
    "runs/latest/learning_curve.png": "learning_curve.png",
    "probe.png": "probe.png",
    "simulation/map_treated.png": "simulation_map.png",
    "simulation/effects_by_distance.png": "simulation_effects.png",
}
TARGET_SUM = 10_000.0  # as in the recipe of the demo
MAX_WIDTH, NUM_COLOURS = 800, 256
MIN_CELLS = 200  # that express a gene, for its correlation to mean something


def main(folder: Path) -> None:
    """Write all pictures of the folder of a demo to docs/images."""
    IMAGES.mkdir(exist_ok=True)
    for source, name in COPIED.items():
        save_small(Image.open(folder / source), IMAGES / name)
    measured = ad.read_h5ad(folder / "prepared" / "demo.h5ad")
    predicted = ad.read_h5ad(folder / "predicted" / "demo.h5ad")[measured.obs_names, measured.var_names]
    draw_prediction(measured, np.asarray(predicted.X), IMAGES / "prediction.png")


def draw_prediction(measured: ad.AnnData, predicted: NDArray[np.float32], path: Path) -> None:
    """Draw measured and predicted expression of the genes that are predicted best, at the median and worst.

    Args:
        measured: N cells with raw counts of G genes.
        predicted: (N, G) log-normalised expression, each cell hidden while it was predicted.
        path: The picture to write.
    """
    counts = measured.X.toarray()
    expression = np.log1p(counts / counts.sum(axis=1, keepdims=True) * TARGET_SUM)
    candidates = np.flatnonzero((counts > 0).sum(axis=0) >= MIN_CELLS)
    pearson = np.array([np.corrcoef(expression[:, gene], predicted[:, gene])[0, 1] for gene in candidates])
    ranked = candidates[np.argsort(-pearson)]
    chosen = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
    figure, axes = plt.subplots(2, 3, figsize=(9, 4.2), sharex=True, sharey=True, layout="constrained")
    x_um, y_um = measured.obsm["spatial"].T
    for column, (word, gene) in enumerate(chosen.items()):
        r = pearson[candidates == gene][0]
        for row, values in enumerate((expression[:, gene], predicted[:, gene])):
            axis = axes[row, column]
            highest = np.quantile(values, 0.99) or 1.0
            axis.scatter(x_um, y_um, c=values, s=2.0, cmap="viridis", vmin=0, vmax=highest, linewidths=0)
            axis.set(aspect="equal", xticks=[], yticks=[])
        axes[0, column].set_title(f"{measured.var['symbol'].iloc[gene]}, {word}: r = {r:.2f}", fontsize=11)
    axes[0, 0].set_ylabel("measured", fontsize=11)
    axes[1, 0].set_ylabel("predicted, cell hidden", fontsize=11)
    axes[0, 0].invert_yaxis()  # as in all reports
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=82)
    save_small(Image.open(buffer), path)


def save_small(image: Image.Image, path: Path) -> None:
    """Write a picture with few colours and a limited width."""
    picture = image.convert("RGB")
    picture.thumbnail((MAX_WIDTH, MAX_WIDTH * 2))
    picture.quantize(NUM_COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
