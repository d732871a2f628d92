"""Time and memory of the judge with every baseline and no model: cells x genes that are scored, seconds, peak memory.

`python benchmarks/bench_evaluate.py prepared/SLIDE.h5ad --region train --cells 40000`
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

from cifm_cli.data.slide import open_slide
from cifm_cli.evaluation.baselines import BASELINES
from cifm_cli.evaluation.bench import Bench
from cifm_cli.evaluation.judge import judge
from cifm_cli.evaluation.plan import plan_rounds
from cifm_cli.evaluation.predictors import BaselinePredictor
from cifm_cli.evaluation.protocols import GEOMETRIES


def main() -> None:
    """Judge all baselines in both geometries, the tuning included, and print one line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--region", default="validation")
    parser.add_argument("--tuned-on", default="train")
    parser.add_argument("--cells", type=int, default=40_000, help="scored in each geometry, at most")
    arguments = parser.parse_args()
    slide = open_slide(arguments.slide)
    bench = Bench(slide, np.arange(slide.num_genes), 10_000.0, slide.radius_um, 6 * slide.radius_um, seed=0)
    for geometry in GEOMETRIES:
        plan = plan_rounds(bench, geometry, arguments.region, arguments.tuned_on, None)
        number = np.cumsum([len(part.hidden) for part in plan.scored])
        rounds = plan.scored[: max(1, int(np.searchsorted(number, arguments.cells, side="right")))]
        started, processor = time.perf_counter(), time.process_time()
        verdict = judge(bench, geometry, [BaselinePredictor(baseline) for baseline in BASELINES], rounds, plan.tuning)
        found = {
            "geometry": geometry,
            "cells": len(verdict.rows),
            "genes": len(bench.columns),
            "predictors": len(BASELINES),
            "seconds": round(time.perf_counter() - started, 1),
            "processor_seconds": round(time.process_time() - processor, 1),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "best_mse": verdict.board.best_baseline("mse"),
        }
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
