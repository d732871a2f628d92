"""Options of `cifm prepare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cifm_cli.data.prepare.splits import SplitConfig
from cifm_cli.data.readers.base import ReadConfig

KEEP_MITOCHONDRIAL, KEEP_OUTSIDE, KEEP_OVERLAP = KEEPABLE = ("mitochondrial", "outside-tissue", "overlap")


@dataclass(frozen=True)
class PrepareConfig:
    """Options of a preparation.

    The field names are stored in every prepared slide as part of its provenance.
    """

    out: Path = Path("prepared")  # folder of the prepared slides
    name: str | None = None  # name of the prepared slide; None for the name of the download
    platform: str | None = None  # name of the reader; None to recognise it
    bin_um: int = 8  # bin size to read from a Visium HD download, micrometres
    condition: str = ""  # free text, such as `tumour`
    tissue: str = ""  # free text, such as `pancreas`
    sample: str | None = None  # free text; None for the name of the slide
    # graph radius, micrometres; None for the radius of the platform, or one derived from the spacing
    radius_um: float | None = None
    microns_per_pixel: float | None = None  # scale of the coordinates, if they are pixels
    layer: str | None = None  # slot of the raw counts in an `.h5ad`: `X`, `raw`, or the name of a layer
    gene_table: Path | None = None  # CSV of Ensembl ids and symbols that takes precedence over the packaged table
    orthologs: Path | None = None  # CSV of Ensembl ids of another species and of human
    cells: Path | None = None  # table of cell centres, for a download that is a matrix alone
    keep: tuple[str, ...] = ()  # values of `KEEPABLE`: what the filters do not drop, and overlaps that are no error
    by: tuple[str, ...] = ()  # columns of obs that name the section of a cell; each section becomes a slide
    section: str | None = None  # the section that a slide holds, if `by` is given; set by the pipeline
    z: tuple[float, float] | None = None  # lowest and highest depth; cells outside are dropped
    crop: tuple[float, float, float, float] | None = None  # x0, y0, x1, y1 in micrometres; cells outside are dropped
    split: SplitConfig = field(default_factory=SplitConfig)  # how the slide is split into regions
    force: bool = False  # whether to replace an existing prepared slide
    qc_report: bool = False  # whether to write an HTML report beside the slide

    @property
    def read_config(self) -> ReadConfig:
        """The options that a reader takes."""
        return ReadConfig(self.bin_um, self.microns_per_pixel, self.layer, self.cells, self.by)
