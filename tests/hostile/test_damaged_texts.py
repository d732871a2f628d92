"""Damaged recipes, sheets, tables and metrics, and damaged models and classifiers, through the commands that read them.

`tests/properties/test_damaged_models.py` tries more models, without commands. `run_mutations.py` tries many more of all.
"""

from __future__ import annotations

import sys

import pytest
from example_counts import num_examples
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("commands run in forked processes with limits", allow_module_level=True)

import annotator_mutations
import checkpoint_mutations
import text_mutations
from forgeries import is_allowed
from outcomes import GOOD, MutationRunner

_MUTATIONS = {
    f"{module.__name__}: {name}": mutation
    for module in (annotator_mutations, checkpoint_mutations, text_mutations)
    for name, mutation in module.MUTATIONS.items()
}


@settings(
    max_examples=num_examples(8, thorough=100),
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(kind=st.sampled_from(sorted(_MUTATIONS)), seed=st.integers(0, 2**32 - 1))
def test_damage_is_never_silent_and_never_a_traceback(runner: MutationRunner, kind: str, seed: int) -> None:
    outcome, text, folder = runner.run(_MUTATIONS[kind], seed)
    assert outcome in GOOD or is_allowed(_MUTATIONS[kind], outcome), f"{outcome}, {kind}: {text}\n{folder}"
