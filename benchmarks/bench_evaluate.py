"""Measure time and peak memory of an evaluation of all baselines, without a model.

    python benchmarks/bench_evaluate.py prepared/SLIDE.h5ad --region train --tuned-on validation --out RESULT.json

The time includes tuning and scoring, but not opening the slide. The memory is the peak of the resident memory since the start
of the process, which includes geometries measured before. Linux only.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from record import write_record
from subprocesses import memory_bytes

from cifm_cli.data.slide import open_slide
from cifm_cli.evaluation.dataset import EvaluationDataset
from cifm_cli.evaluation.evaluator import Evaluator, open_result
from cifm_cli.evaluation.fold_plan import FoldPlanner
from cifm_cli.evaluation.folds import DEFAULT_KINDS
from cifm_cli.evaluation.predictors.base import BaselinePredictor
from cifm_cli.evaluation.predictors.registry import all_baselines

PACKAGES = ("numba", "numpy", "scipy", "torch")


def main() -> None:
    """Tune and score all baselines in both geometries; print one line of JSON for each geometry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--region", default="validation")
    parser.add_argument("--tuned-on", default="train")
    parser.add_argument("--cells", type=int, default=40_000, help="maximum number of scored cells per geometry")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write JSON here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    slide = open_slide(arguments.slide)
    reach_um = 6 * slide.radius_um
    dataset = EvaluationDataset(slide, np.arange(slide.num_genes), 10_000.0, slide.radius_um, reach_um, seed=0)
    for geometry in DEFAULT_KINDS:
        plan = FoldPlanner(dataset, arguments.region, arguments.tuned_on).plan(geometry)
        number = np.cumsum([len(fold.hidden) for fold in plan.scored])
        folds = plan.scored[: max(1, int(np.searchsorted(number, arguments.cells, side="right")))]
        started, processor = time.perf_counter(), time.process_time()
        evaluator = Evaluator(open_result(dataset, geometry, folds, annotator=None), folds, plan.tuning)
        for baseline in all_baselines():
            evaluator.result.add(evaluator.evaluate(BaselinePredictor(baseline)))
        row = {
            "geometry": geometry,
            "cells": len(evaluator.result.rows),
            "genes": dataset.num_genes,
            "predictors": len(evaluator.result.scores),
            "seconds": round(time.perf_counter() - started, 1),
            "processor_seconds": round(time.process_time() - processor, 1),
            "peak_gb": round(memory_bytes() / 1e9, 2),
            "best_mse": evaluator.result.comparison.best_baseline("mse"),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    if arguments.out:
        facts = {"slide": slide.name, "region": arguments.region, "tuned_on": arguments.tuned_on}
        write_record(arguments.out, PACKAGES, facts | {"threads": arguments.threads, "rows": rows})


if __name__ == "__main__":
    main()
