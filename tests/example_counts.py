"""Numbers of examples of property tests whose examples take long; those of all others are in the profiles of `conftest.py`."""

from __future__ import annotations

from hypothesis import settings


def num_examples(usual: int, *, thorough: int) -> int:
    """Choose the number of examples of a test.

    Args:
        usual: In most profiles.
        thorough: With `--hypothesis-profile=thorough`.
    """
    return thorough if settings.get_current_profile_name() == "thorough" else usual
