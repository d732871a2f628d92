"""Probe a label across patients: every sample is held out in turn, and embeddings are compared with the baselines.

    python benchmarks/bench_probe.py prepared/*.h5ad --model runs/latest --label label --positive "invasive cancer" \
        --out benchmarks/results/probe.json

All slides are embedded by one model, since the dimensions of two models have nothing in common. Only slides with the label are
given; sections of one patient need the same sample name (`cifm prepare --sample`). The table holds each set of features with the
metrics over all held-out cells and their 95 % intervals over samples, the difference of the microenvironment embedding to it, and the
mean and range of the ROC-AUC within the slides.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from record import write_record

PACKAGES = ("numpy", "scikit-learn", "scipy", "torch")


def main() -> None:
    """Embed the slides, probe them and print the table."""
    from cifm_cli import keys
    from cifm_cli.data.writers.embedded import read_embedded
    from cifm_cli.embedding.embed import embed_slides
    from cifm_cli.embedding.labels import LabelChoice
    from cifm_cli.embedding.probe import ProbeConfig, run_probe
    from cifm_cli.inference.loaded_model import load_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", type=Path, nargs="+", help="prepared slides")
    parser.add_argument("--model", type=Path, required=True, help="a training run")
    parser.add_argument("--adapt", choices=("none", "slide"), default="slide")
    parser.add_argument("--label", required=True)
    parser.add_argument("--positive")
    parser.add_argument("--ignore", action="append", default=[])
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, levels = load_model(options.model), ("microenvironment", "cell")
        described = embed_slides(model, options.slides, levels, Path(folder), adapt=options.adapt)
        embedded = [read_embedded(Path(each["path"])) for each in described.values()]
    choice = LabelChoice(options.label, options.positive, tuple(options.ignore))
    content = run_probe(embedded, ProbeConfig(choice, num_folds=20)).content
    print(content["evidence"]["answer"])
    print(markdown(content, keys.MICROENVIRONMENT))
    if options.out:
        write_record(options.out, PACKAGES, {"model": options.model.name, "adapt": options.adapt, "probe": content})


def markdown(content: dict[str, Any], embedding: str) -> str:
    """The table of all sets of features."""
    from cifm_cli.embedding.evidence import format_interval

    lines = [
        f"| features | ROC-AUC | balanced accuracy | Brier score | {embedding} minus it: ROC-AUC | balanced accuracy | within slides |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, facts in content["features"].items():
        areas = [each["features"][name]["roc_auc"] for each in content["by_slide"]]
        known = [area for area in areas if area is not None]
        within = f"{sum(known) / len(known):.3f} ({min(known):.3f} to {max(known):.3f})" if known else "-"
        metrics = [format_interval(facts[metric]) for metric in ("roc_auc", "balanced_accuracy", "brier")]
        pair = content["paired"][embedding]
        minus = [
            "-" if name == embedding else format_interval(pair[metric]["others"][name], sign="+")
            for metric in ("roc_auc", "balanced_accuracy")
        ]
        lines.append(" | ".join(["| " + name, *metrics, *minus, within + " |"]))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
