"""`uns["cifm"]` against its schema."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli.data.metadata import check_metadata, decode_metadata, encode_metadata, parse_object
from cifm_cli.errors import CifmError

VALID: dict[str, Any] = {
    "format": np.int64(1),
    "platform": "xenium",
    "radius_um": np.float64(20.0),
    "tissue": "",
    "condition": "",
    "sample": "a",
    "report": '{"cells": {}}',
    "provenance": '{"inputs": {}, "options": {}}',
}
WRONG: list[tuple[str, list[Any]]] = [
    ("format", [None, "1", 1.5, True, np.array([1, 2]), -1, 2, np.nan]),
    ("radius_um", [None, "20", 0, -1.0, np.nan, np.inf, 1e30, True, np.array([1.0])]),
    ("platform", [None, 1, b"xenium", ["a"]]),
    ("tissue", [None, np.nan, "a" * 10**6]),
    ("report", [None, 1, "", "[]", "null", "{", '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', "[" * 10**5]),
    ("provenance", [None, '{"options": 1}', '{"inputs": []}', '{"a": ' * 2000 + "1" + "}" * 2000]),
]


def test_valid_metadata_are_decoded() -> None:
    metadata = check_metadata(VALID, "x")
    assert metadata["radius_um"] == 20.0
    assert metadata["report"] == {"cells": {}}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG for value in values])
def test_wrong_entry_is_an_error_that_names_it(key: str, value: Any) -> None:
    for metadata in ({**VALID, key: value}, {name: entry for name, entry in VALID.items() if name != key}):
        with pytest.raises(CifmError, match="x: ") as error:
            check_metadata(metadata, "x")
        assert key in error.value.message
        assert error.value.hint


@pytest.mark.parametrize("stored", [None, 1, "text", []])
def test_metadata_of_another_type_are_refused(stored: object) -> None:
    with pytest.raises(CifmError, match="must be a dictionary"):
        check_metadata(stored, "x")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(st.characters(codec="utf8")), values, max_size=4))
def test_reports_survive_the_file(report: dict[str, Any]) -> None:
    stored = encode_metadata({"report": report, "platform": "p"})
    assert isinstance(stored["report"], str)
    assert decode_metadata(stored, "x") == {"report": report, "platform": "p"}


@given(st.text() | st.binary() | st.none() | st.integers())
def test_any_text_is_an_object_or_an_error(text: object) -> None:
    with suppress(CifmError):
        assert isinstance(parse_object(text, "x"), dict)
