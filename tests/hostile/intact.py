"""The intact workspace that mutations damage: a prepared and an embedded slide, a run, and a classifier of cell types."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

from builders import train_short_run

from cifm_cli.app import main
from cifm_cli.synthetic.downloads import write_xenium

SLIDE, EMBEDDED = Path("prepared/tissue.h5ad"), Path("embedded/tissue.h5ad")
RUN, ANNOTATOR = Path("runs/short"), Path("annotators/tissue.safetensors")

_WITH_MODEL = ["--model", str(RUN), "--out"]
_SHORT = ["train.steps=2", "model.width=8", "train.validation_tiles=1", "data.tile_cells=64"]

COMMANDS = {
    "inspect": ["inspect", str(SLIDE)],
    "inspect embedded": ["inspect", str(EMBEDDED)],
    "embed": ["embed", str(SLIDE), *_WITH_MODEL, "out"],
    "embed embedded": ["embed", str(EMBEDDED), *_WITH_MODEL, "out"],
    "predict": ["predict", str(SLIDE), *_WITH_MODEL, "out/predicted.h5ad"],
    "probe": ["probe", str(EMBEDDED), "--label", "cluster", "--folds", "2", "--out", "out/probe.json"],
    "annotate": ["annotate", "apply", str(SLIDE), "--out", "out"],
    "evaluate": ["evaluate", str(SLIDE), *_WITH_MODEL, "out", "--geometry", "scattered"],
    "simulate": ["simulate", str(SLIDE), *_WITH_MODEL, "out", "--inject", "tcell", "--steps", "1", "--replicates", "1"],
    "train": ["train", "demo", "--data", "prepared", "--out", "out", *[w for s in _SHORT for w in ("--set", s)]],
}


# Texts that users write, which commands of `text_mutations` read.
TEXTS = {
    "own.toml": """description = "small"
[data]
radius_um = 20.0
tile_cells = 64
[model]
width = 8
heads = 2
[mask]
share = 0.05
patch_radii = [2.0, 8.0]
[objective]
scales = [0.5, 1.0]
[train]
steps = 2
learning_rate = 1e-3
validation_tiles = 1
""",
    "sheet.csv": "download,name,condition,radius_um,crop\ntissue,first,tumour,25,\n",
    "at.csv": "x_um,y_um\n10,20\n30.5,40\n50,60\n",
    "own.tsv": "cell_type\tsymbol\nA cell\tCD3E\nA cell\tCD3D\nB cell\tMS4A1\nB cell\tCD79A\n",
}


def build_intact(folder: Path, num_cells: int = 800) -> None:
    """Write the workspace into an empty folder."""
    folder = folder.resolve()
    with chdir(folder):
        write_xenium(Path("tissue"), num_cells, seed=0)
        run("prepare", "tissue")
        train_short_run(SLIDE, RUN)
        run("embed", str(SLIDE), "--model", str(RUN))
        run("annotate", "train", str(SLIDE), "--label", "cluster")
        for name, text in TEXTS.items():
            Path(name).write_text(text, encoding="utf8")


def run(*argv: str) -> None:
    """Run a command that must succeed."""
    code = main(list(argv))
    assert code == 0, f"cifm {' '.join(argv)}: {code}"
