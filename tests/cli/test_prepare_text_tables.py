"""Tables as Excel, Windows, R and repositories write them: encodings, separators, decimal commas, uneven rows, headers."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_downloads as small

from cifm_cli import keys
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.gene_symbols import read_gene_table
from cifm_cli.data.prepare.samplesheet import read_samplesheet

Encode = Callable[[str], bytes]
ENCODINGS: dict[str, Encode] = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 big-endian": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "Latin-1": lambda text: text.encode("latin-1"),
    "Windows lines": lambda text: text.replace("\n", "\r\n").encode(),
    "old Mac lines": lambda text: text.replace("\n", "\r").encode(),
    "gzip": lambda text: gzip.compress(text.encode()),
}
by_encoding = pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS.keys())


def as_csv(table: pd.DataFrame, **options: object) -> str:
    return str(table.to_csv(index=False, lineterminator="\n", **options))


def require_the_cells(slide: object) -> None:
    """Every cell has its own place and its own counts."""
    placed = pd.DataFrame(slide.obsm[keys.SPATIAL], index=slide.obs_names)
    expected = small.cells().set_index("cell_id").to_numpy()
    assert np.array_equal(placed.loc[list(small.BARCODES)].to_numpy(), expected)
    assert np.array_equal(slide[list(small.BARCODES), small.IDS].X.toarray(), small.counts())


@by_encoding
def test_cells_in_every_encoding(prepare: Callable[..., tuple], tmp_path: Path, encode: Encode) -> None:
    table = small.cells().assign(cell_type="Müller")
    slide, _ = prepare(small.with_cells_as_text(small.write_bundle(tmp_path / "s"), encode(as_csv(table))))
    require_the_cells(slide)
    assert set(slide.obs["cell_type"]) == {"Müller"}


@pytest.mark.parametrize("encode", [ENCODINGS[name] for name in list(ENCODINGS)[:7] if name != "Latin-1"])
def test_mex_in_every_encoding(prepare: Callable[..., tuple], tmp_path: Path, encode: Encode) -> None:
    folder = small.with_mex(small.write_bundle(tmp_path / "s"))
    for path in (folder / "cell_feature_matrix").iterdir():
        path.write_bytes(encode(path.read_text()))
    require_the_cells(prepare(folder)[0])


def without_index_column(text: str) -> str:
    header, rows = text.split("\n", 1)
    return header.partition(",")[2] + "\n" + rows


LAYOUTS: dict[str, Callable[[pd.DataFrame], str]] = {
    "semicolons": lambda table: as_csv(table, sep=";"),
    "semicolons and decimal commas": lambda table: as_csv(table, sep=";", decimal=","),
    "tabs": lambda table: as_csv(table, sep="\t"),
    "all quoted": lambda table: as_csv(table, quoting=1),
    "empty columns at the end": lambda table: as_csv(table).replace("\n", ",,\n"),
    "empty fields at the end of rows": lambda table: as_csv(table).replace("\n", ",\n").replace(",\n", "\n", 1),
    "row names of write.csv": lambda table: table.to_csv(),
    "row names of write.table": lambda table: without_index_column(table.to_csv()),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_cells_in_every_layout(
    prepare: Callable[..., tuple], tmp_path: Path, layout: Callable[[pd.DataFrame], str]
) -> None:
    content = layout(small.cells()).encode()
    require_the_cells(prepare(small.with_cells_as_text(small.write_bundle(tmp_path / "s"), content))[0])


@pytest.mark.parametrize(
    ("value", "message"),
    [("1,234.5", "'1,234.5'"), ("12,5", "'12,5'"), ("3 um", "'3 um'")],
)
def test_places_that_are_not_numbers_are_named(
    refuse: Callable[..., str], tmp_path: Path, value: str, message: str
) -> None:
    table = small.cells().astype({"x_centroid": object})
    table.loc[3, "x_centroid"] = value
    err = refuse(small.with_cells_as_text(small.write_bundle(tmp_path / "s"), as_csv(table).encode()))
    assert f"column x_centroid holds text, such as {message} (1 of 40 fields)" in err
    assert "with a decimal point and without separators of thousands" in err


def as_parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


NAMED = small.cells()
INDEXED = NAMED.set_index("cell_id")
CELL_TABLES = {
    "ids as the index": INDEXED,
    "ids as an index without a name": INDEXED.rename_axis(None),
    "ids as the column of an index": NAMED.rename(columns={"cell_id": "__index_level_0__"}),
    "ids as bytes": NAMED.assign(cell_id=NAMED["cell_id"].str.encode("ascii")),
    "ids as categories": NAMED.assign(cell_id=NAMED["cell_id"].astype("category")),
}


@pytest.mark.parametrize("table", CELL_TABLES.values(), ids=CELL_TABLES.keys())
def test_ids_of_cells_in_parquet(prepare: Callable[..., tuple], tmp_path: Path, table: pd.DataFrame) -> None:
    folder = small.write_bundle(tmp_path / "s")
    (folder / "cells.parquet").write_bytes(as_parquet(table))
    require_the_cells(prepare(folder)[0])


def lines_of_features(*, sep: str = "\t", header: str = "", columns: int = 3) -> bytes:
    rows = [sep.join(row[:columns]) for row in small.features().to_numpy()]
    return ("\n".join([*([header] if header else []), *rows]) + "\n").encode()


MEX_FILES: dict[str, dict[str, bytes]] = {
    "headers": {
        "features": lines_of_features(header="gene_id\tgene_name\ttype"),
        "barcodes": b"barcode\n" + "\n".join(small.BARCODES).encode(),
    },
    "quoted headers": {
        "features": lines_of_features(header='"gene_id"\t"gene_name"\t"type"'),
        "barcodes": b'"x"\n' + "\n".join(f'"{name}"' for name in small.BARCODES).encode(),
    },
    "ids alone": {"features": lines_of_features(columns=1)},
    "two columns": {"features": lines_of_features(columns=2)},
    "commas": {"features": lines_of_features(sep=",")},
    "semicolons": {"features": lines_of_features(sep=";")},
    "empty columns": {"features": lines_of_features().replace(b"\n", b"\t\t\n")},
    "columns after the barcode": {"barcodes": "\n".join(f"{name}\tlot 1" for name in small.BARCODES).encode()},
}


@pytest.mark.parametrize("files", MEX_FILES.values(), ids=MEX_FILES.keys())
def test_mex_files_of_other_software(prepare: Callable[..., tuple], tmp_path: Path, files: dict[str, bytes]) -> None:
    require_the_cells(prepare(small.with_mex(small.write_bundle(tmp_path / "s"), **files))[0])


def test_mex_files_named_after_a_sample(prepare: Callable[..., tuple], tmp_path: Path) -> None:
    folder = small.with_mex(small.write_bundle(tmp_path / "s"), prefix="GSM1_s1_")
    require_the_cells(prepare(folder)[0])
    table = tmp_path / "cells.csv"
    table.write_text(as_csv(small.cells()))
    matrix = folder / "cell_feature_matrix" / "GSM1_s1_matrix.mtx"
    (tmp_path / "prepared" / "s.h5ad").unlink()
    require_the_cells(prepare("--matrix", matrix, "--cells", table)[0])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"features": b""}, "features.tsv: an empty file"),
        ({"barcodes": b""}, "barcodes.tsv: an empty file"),
        ({"matrix": b""}, "matrix.mtx: an empty file"),
        ({"features": b"".join(lines_of_features().splitlines(keepends=True)[1:])}, "4 features"),
        ({"features": lines_of_features(header="CD3E\tCD3E\tx")}, "6 features"),
    ],
)
def test_incomplete_mex_files_are_named(
    refuse: Callable[..., str], tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    assert message in refuse(small.with_mex(small.write_bundle(tmp_path / "s"), **files))


@by_encoding
def test_gene_table_keeps_its_first_gene(tmp_path: Path, encode: Encode) -> None:
    path = tmp_path / "genes.csv"
    path.write_bytes(
        encode("".join(f"{gene},{name}\n" for gene, name in zip(small.IDS, "ABCDE", strict=True)) + "x,ü\n")
    )
    assert read_gene_table(path)["symbol"].tolist() == list("ABCDE")


@pytest.mark.parametrize("sep", [",", ";", "\t", "|", " ", ", "])
@pytest.mark.parametrize("end", ["", ",,"])
def test_gene_table_in_every_layout(tmp_path: Path, sep: str, end: str) -> None:
    path = tmp_path / "genes.txt"
    end = end.replace(",", sep.strip())
    rows = [f'"{gene}"{sep}"{name}"{end}' for gene, name in zip(small.IDS, small.SYMBOLS, strict=True)]
    path.write_text("\n".join([f"id{sep}symbol{end}", *rows]) if sep != " " else "\n".join(rows).replace('"', ""))
    table = read_gene_table(path)
    assert (table["id"].tolist(), table["symbol"].tolist()) == (small.IDS, small.SYMBOLS)


MATRIX = "cell,CD4,CD8A\na,1,0\nü,0,2\nc,3,4\n"
CELLS = "name,x_um,y_um\nc,0,10.5\na,0,0\nü,10,0\n"
TABLES: dict[str, tuple[bytes, bytes]] = {
    **{name: (encode(MATRIX), encode(CELLS)) for name, encode in ENCODINGS.items()},
    "one in Latin-1": (MATRIX.encode("latin-1"), CELLS.encode()),
    "semicolons": (MATRIX.replace(",", ";").encode(), CELLS.replace(",", ";").replace(".", ",").encode()),
    "empty columns": (MATRIX.replace("\n", ",\n").encode(), CELLS.replace("\n", ",,\n").encode()),
    "empty fields": (
        MATRIX.replace("\n", ",\n").replace(",\n", "\n", 1).encode(),
        CELLS.replace("\n", ",\n").replace(",\n", "\n", 1).encode(),
    ),
    "names without a title": (MATRIX.removeprefix("cell,").encode(), CELLS.removeprefix("name,").encode()),
}


@pytest.mark.parametrize(("matrix", "cells"), TABLES.values(), ids=TABLES.keys())
def test_matrix_and_cells_as_text(prepare: Callable[..., tuple], tmp_path: Path, matrix: bytes, cells: bytes) -> None:
    (tmp_path / "m.csv").write_bytes(matrix)
    (tmp_path / "c.csv").write_bytes(cells)
    slide, _ = prepare("--matrix", tmp_path / "m.csv", "--cells", tmp_path / "c.csv")
    assert sorted(slide.obs_names) == ["a", "c", "ü"]
    assert slide[["a", "ü", "c"]].X.toarray().tolist() == [[1, 0], [0, 2], [3, 4]]
    assert slide[["a", "ü", "c"]].obsm[keys.SPATIAL].tolist() == [[0, 0], [10, 0], [0, 10.5]]


@pytest.mark.parametrize(
    ("matrix", "cells", "message"),
    [
        (MATRIX.replace("3", '"3,5"'), CELLS, "m.csv: column CD4 holds text, such as '3,5'"),
        (MATRIX, CELLS.replace("10.5", '"1,000.5"'), "c.csv: column y_um holds text, such as '1,000.5'"),
        ("", CELLS, "m.csv: an empty file"),
        ("cell,CD4\n", CELLS, "m.csv: a header without rows"),
        (MATRIX, "name,x_um,y_um\n", "c.csv: a table without cells"),
        ("PK\x03\x04 [Content_Types].xml", CELLS, "m.csv: an Excel workbook"),
    ],
)
def test_tables_that_cannot_be_read_are_named(
    refuse: Callable[..., str], tmp_path: Path, matrix: str, cells: str, message: str
) -> None:
    (tmp_path / "m.csv").write_text(matrix, encoding="utf8")
    (tmp_path / "c.csv").write_text(cells, encoding="utf8")
    assert message in refuse("--matrix", tmp_path / "m.csv", "--cells", tmp_path / "c.csv")


@pytest.mark.parametrize(
    "encode", [ENCODINGS["UTF-16"], ENCODINGS["Latin-1"], lambda text: text.replace("\n", ",,\n").encode()]
)
def test_sample_sheet_of_a_spreadsheet(tmp_path: Path, encode: Encode) -> None:
    small.anndata_slide().write_h5ad(tmp_path / "s.h5ad")
    (tmp_path / "sheet.csv").write_bytes(encode("download,name\ns.h5ad,fünf\n"))
    (task,) = read_samplesheet(tmp_path / "sheet.csv", PrepareConfig())
    assert (task.download, task.config.name) == (tmp_path / "s.h5ad", "fünf")
