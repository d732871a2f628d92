"""Tables that users write: encodings, separators, decimal commas, and one line of error for everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli.data.readers.locations import read_locations
from cifm_cli.data.readers.text_records import read_records
from cifm_cli.errors import CifmError

TABLE = "cell,größe\n\na, 1\nb\n,,,\n"


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_of_any_program_are_read(tmp_path: Path, encoding: str, separator: str, end: str) -> None:
    text = TABLE.replace(",", separator).replace("\n", end)
    records = read_records(write(tmp_path, text.encode(encoding)))
    assert records.columns == ("cell", "größe")
    assert records.rows == [["a", "1"], ["b", ""]]
    assert records.lines == [3, 4]
    assert records.column("größe") == ["1", ""]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty table"),
        (b"\n \n,,\n", "an empty table"),
        (b"\n\nx,y\n1,2,3\n", "line 4 has 3 fields, the first line names 2"),
        (b"x,y,X\n1,2,3\n", "two columns are called x"),
        (b"x,y\n1\0,2\n", "no text, it holds bytes of zero"),
        (b'x,y\n"1,2\n3,4\n', "damaged or of another format"),
        (b"x,y\n" + b"1" * 200_000 + b",2\n", "field larger than field limit"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "table.csv"),
    ],
)
def test_what_is_no_table_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(CifmError, match=message):
        read_records(write(tmp_path, content))


def test_a_missing_table_and_a_folder_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(CifmError, match=str(path)):
            read_records(path)


@given(st.binary(max_size=200))
def test_no_content_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = write(tmp_path_factory.mktemp("table"), content)
    for read in (read_records, read_locations):
        try:
            read(path)
        except CifmError as error:
            described = f"{error.message} {error.hint}"
            assert "table.csv" in described


COORDINATES = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=20), st.booleans())
def test_locations_are_unchanged(
    tmp_path_factory: pytest.TempPathFactory, locations: list[tuple[float, float]], is_german: bool
) -> None:
    lines = ["name,x_um,y_um", *(f"n{number},{x!r},{y!r}" for number, (x, y) in enumerate(locations))]
    text = "\n".join(lines)
    if is_german:
        text = text.replace(",", ";").replace(".", ",")
    found = read_locations(write(tmp_path_factory.mktemp("locations"), text))
    assert np.array_equal(found, locations)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("nan,2", "line 3 is not two numbers"),
        ("inf,2", "line 3 is not two numbers"),
        ("1e10,2", "line 3 is not two numbers of at most"),
        ("1", "line 3 is not two numbers"),
        ("1,5,2,5", "line 3 has 4 fields, the first line names 2"),
        ('"1,5",2', "line 3 is not two numbers"),
    ],
)
def test_a_wrong_location_is_named_by_its_line(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(CifmError, match=message):
        read_locations(write(tmp_path, f"x_um,y_um\n1,2\n{row}\n"))
