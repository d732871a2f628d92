"""Choice of the masked cells: number, position, and dependence on the seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli.model.masking import choose_masked
from cifm_cli.provenance import numpy_generator
from cifm_cli.recipe import Recipe
from cifm_cli.recipe_sections import MaskRecipe

CORE = np.arange(100, 300)
XY = np.stack(np.divmod(np.arange(200), 20), axis=1) * 0.5  # a grid of 5 by 10 radii
seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, low=st.floats(0.01, 0.4), wider=st.floats(0.0, 0.4), contiguous=st.floats(0, 1))
def test_number_and_position_of_the_masked_cells(seed: int, low: float, wider: float, contiguous: float) -> None:
    recipe = Recipe(mask=MaskRecipe(share=low, share_max=low + wider, contiguous=contiguous))
    masked = choose_masked(CORE, XY, recipe, numpy_generator(seed))
    assert 0 < len(np.unique(masked)) == len(masked)
    assert round(200 * low) - 1 <= len(masked) <= round(200 * (low + wider)) + 1
    assert np.isin(masked, CORE).all()
    assert (np.diff(masked) > 0).all()
    assert np.array_equal(masked, choose_masked(CORE, XY, recipe, numpy_generator(seed)))


@given(seed=seeds)
def test_squares_are_filled_one_after_the_other(seed: int) -> None:
    """Of all squares that hold a masked cell, at most one also holds a visible one."""
    recipe = Recipe(mask=MaskRecipe(share=0.2, contiguous=1.0, patch_radii=(2.0, 2.0)))
    masked = np.isin(CORE, choose_masked(CORE, XY, recipe, numpy_generator(seed)))
    generator = numpy_generator(seed)
    generator.uniform(0.2, 0.2)
    generator.random()
    side = generator.uniform(2.0, 2.0)
    corner = XY.min(axis=0) - generator.uniform(0, side, size=2)
    square = ((XY - corner) // side) @ [100, 1]
    mixed = [number for number in np.unique(square) if 0 < masked[square == number].mean() < 1]
    assert masked.sum() == 40
    assert len(mixed) <= 1


def test_every_core_cell_is_masked_equally_often() -> None:
    recipe = Recipe(mask=MaskRecipe(share=0.2, contiguous=0.5))
    times = np.zeros(400)
    for number in range(2_000):
        times[choose_masked(CORE, XY, recipe, numpy_generator(number))] += 1
    assert times[CORE].min() > 0
    assert abs(times[CORE][20:-20].mean() - 400) < 60
