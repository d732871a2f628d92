"""Options of `cifm prepare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cifm_cli.data.prepare.splits import SplitConfig
from cifm_cli.data.readers.base import ReadConfig

KEEP_MITOCHONDRIAL, KEEP_OUTSIDE = KEEPABLE = ("mitochondrial", "outside-tissue")


@dataclass(frozen=True)
class PrepareConfig:
    """Options of a preparation.

    The field names are stored in every prepared slide as part of its provenance.

    Args:
        out: Folder of the prepared slides.
        name: Name of the prepared slide; None for the name of the download.
        platform: Name of the reader; None to recognise it.
        bin_um: Bin size to read from a Visium HD download, micrometres.
        condition: Free text, such as `tumour`.
        tissue: Free text, such as `pancreas`.
        sample: Free text; None for the name of the slide.
        radius_um: Graph radius, micrometres; None for the radius of the platform, or one derived from the spacing.
        microns_per_pixel: Scale of the coordinates, if they are pixels.
        layer: Slot of the raw counts in an `.h5ad`: `X`, `raw`, or the name of a layer.
        gene_table: CSV of Ensembl ids and symbols that takes precedence over the packaged table.
        orthologs: CSV of Ensembl ids of another species and of human.
        cells: Table of cell centres, for a download that is a matrix alone.
        keep: Values of `KEEPABLE` that the filters do not drop.
        crop: x0, y0, x1, y1 in micrometres; cells outside are dropped.
        split: How the slide is split into regions.
        force: Whether to replace an existing prepared slide.
        qc_report: Whether to write an HTML report beside the slide.
    """

    out: Path = Path("prepared")
    name: str | None = None
    platform: str | None = None
    bin_um: int = 8
    condition: str = ""
    tissue: str = ""
    sample: str | None = None
    radius_um: float | None = None
    microns_per_pixel: float | None = None
    layer: str | None = None
    gene_table: Path | None = None
    orthologs: Path | None = None
    cells: Path | None = None
    keep: tuple[str, ...] = ()
    crop: tuple[float, float, float, float] | None = None
    split: SplitConfig = field(default_factory=SplitConfig)
    force: bool = False
    qc_report: bool = False

    @property
    def read_config(self) -> ReadConfig:
        """The options that a reader takes."""
        return ReadConfig(self.bin_um, self.microns_per_pixel, self.layer, self.cells)
