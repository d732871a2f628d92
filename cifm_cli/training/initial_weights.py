"""The weights that training starts from if they come from another run, with rows for the genes that are new to it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cifm_cli import keys
from cifm_cli.model.coexpression import measure_coexpression
from cifm_cli.model.growth import grow

if TYPE_CHECKING:
    from cifm_cli.model.checkpoint import Checkpoint
    from cifm_cli.model.ensemble import Ensemble
    from cifm_cli.training.corpus import Corpus
    from cifm_cli.training.distributed import Processes

logger = logging.getLogger(__name__)


def grow_initial(init: Checkpoint, corpus: Corpus, processes: Processes) -> Ensemble:
    """Add rows for the genes that are new to a model, derived from co-expression in the training cells.

    Args:
        init: The model.
        corpus: The slides of the new run; its vocabulary starts with that of the model.
        processes: The processes that train together.

    Returns:
        The network for the vocabulary of the corpus; that of the model itself if no gene is new.
    """
    num_new = len(corpus.vocabulary) - len(init.vocabulary)
    if not num_new:
        return init.network
    coexpressions = [
        measure_coexpression(each.slide, init.vocabulary, corpus.recipe.data.target_sum, each.tilers[keys.TRAIN].rows)
        for each in corpus.slides
    ]
    derived = {gene for each in coexpressions if each.is_informative for gene in each.new}
    logger.info(
        "%d genes are new to %s: the weights of %d follow from their co-expression with known genes",
        num_new,
        init.folder,
        len(derived),
    )
    grown = grow(init.network, init.recipe, init.vocabulary, corpus.vocabulary, coexpressions)
    # Sums may be rounded differently on another machine, and all processes start at the same weights.
    processes.copy_from_first(grown)
    return grown
