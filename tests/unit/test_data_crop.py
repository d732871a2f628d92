"""The rectangle of `--crop`."""

from __future__ import annotations

import pytest

from cifm_cli.data.crop import parse_crop
from cifm_cli.errors import CifmError


def test_crop_is_four_numbers_with_an_area() -> None:
    assert parse_crop("0,-1.5,10,20") == (0.0, -1.5, 10.0, 20.0)
    for text in ("0,0,10", "a,b,c,d", "10,0,0,10", "0,0,0,0", ""):
        with pytest.raises(CifmError, match="not a rectangle"):
            parse_crop(text)
