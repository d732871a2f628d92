"""Laws of `prepare` under changed structure: harmless changes give the same slide, others an error, a warning or the same."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from fuzz_damage import HARMLESS, kinds_for
from fuzz_inputs import FORMATS
from fuzz_prepare import BAD, Fuzzer
from hypothesis import given, settings
from hypothesis import strategies as st

STRUCTURE = ("files", "table", "matrix", "datasets")
READ = {name: form for name, form in FORMATS.items() if name.startswith(("xenium", "h5ad"))}  # others: test_reader_laws
DAMAGES = [
    (name, family, kind)
    for name, form in READ.items()
    for family, kinds in kinds_for(form).items()
    if family in STRUCTURE
    for kind in kinds
]
HARMLESS_CHANGES = [
    (name, family, kind)
    for name, form in READ.items()
    for family, kinds in HARMLESS.items()
    for kind in kinds
    if form.matrix != form.table
    or kind not in ("rows in another order", "cells in another order")  # rows are matched by position
]


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Fuzzer:
    return Fuzzer(tmp_path_factory.mktemp("fuzz"), seed=0)


@pytest.mark.parametrize("change", HARMLESS_CHANGES, ids=", ".join)
def test_harmless_change_gives_the_same_slide(fuzzer: Fuzzer, change: tuple[str, str, str]) -> None:
    _, outcome, messages = fuzzer.prepare_damaged(*change, np.random.default_rng(0))
    assert outcome in ("same", "same, told", "other labels"), messages


@settings(max_examples=40, derandomize=True)
@given(st.sampled_from(DAMAGES), st.integers(0, 2**32 - 1))
def test_changed_structure_gives_an_error_a_warning_or_the_same_slide(
    fuzzer: Fuzzer, damage: tuple[str, str, str], seed: int
) -> None:
    with warnings.catch_warnings(action="error"):
        _, outcome, messages = fuzzer.prepare_damaged(*damage, np.random.default_rng(seed))
    assert outcome not in BAD, messages
