"""The words of an evaluation, each explained in a line."""

from __future__ import annotations

from typing import Final

from cifm_cli.evaluation.metrics.expression import DEFINITIONS
from cifm_cli.evaluation.verdict import METRIC_NAMES
from cifm_cli.report.html import Section
from cifm_cli.report.table import Table

_WORDS: Final = {
    "mean, gated": "the two forms of a prediction. mean: the expected expression. gated: the same, with zero where the "
    "predicted probability of expression is low; the threshold is chosen for each predictor on cells that are not scored",
    "better form": "every predictor is judged by that of its two forms which is better on the measure in question",
    "95 % interval": "from a bootstrap that draws whole blocks of tissue again and again, as neighbouring cells are alike",
    "p (Holm)": "probability of a difference at least as large if there were none, corrected for asking about all measures; "
    "below 0.05 a difference is called better or worse",
    "log loss, perplexity": "how surprised a predictor is by the actual state of a cell; a perplexity of 5 is as uncertain as "
    "a guess among 5 equally likely states",
    "energy score": "distance between cells that are sampled from the prediction and the actual cell, corrected for how far "
    "the samples are from each other",
    "calibration": "whether what is predicted with a probability of 30 % is the case in 30 % of the cases",
    "ceiling": "about what a predictor would reach that knew the true profile of every cell: counts are few, and thus noisy",
    "training_mean, zeros": "every cell is the mean of the training cells; no gene is expressed",
    "uniform, bernoulli": "random draws with the mean, or with the frequency, of each gene in the training cells",
    "neighbourhood_average, radius_mean": "mean of the visible cells within the radius of the graph, or of all cells that the "
    "model sees",
    "knn, weighted_knn": "mean of the nearest visible cells, weighted by their distance in the second case",
    "ridge, blend": "linear regressions on such means, fitted on the training region of the slide itself",
}


def words_section() -> Section:
    """The last section of the page; the measures come first."""
    rows = [[METRIC_NAMES[metric], definition] for metric, definition in DEFINITIONS.items()]
    rows += [[word, explanation] for word, explanation in _WORDS.items()]
    return Section("What the words mean", "", Table(["word", "meaning"], rows), folded=True)
