"""Damage to trained classifiers of cell types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from forgeries import may_differ
from intact import ANNOTATOR, SLIDE
from outcomes import Mutation
from tensor_damage import DAMAGES, FORGERIES, Damage

_APPLY = ["annotate", "apply", str(SLIDE), "--annotator", f"reference:{ANNOTATOR}", "--out", "out"]


def on_an_annotator(damage: Damage) -> Mutation:
    """A mutation that damages a classifier, and applies or inspects it."""

    def mutate(generator: np.random.Generator, _intact: Path, target: Path) -> tuple[list[str], str]:
        argv = _APPLY if generator.random() < 0.8 else ["inspect", str(ANNOTATOR)]
        return [*argv], damage(generator, target / ANNOTATOR)

    return mutate


MUTATIONS: dict[str, Mutation] = {
    **{name: on_an_annotator(damage) for name, damage in DAMAGES.items()},
    **{name: may_differ(on_an_annotator(damage)) for name, damage in FORGERIES.items()},
}
