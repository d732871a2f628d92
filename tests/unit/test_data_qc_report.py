"""The HTML report beside a prepared slide: its numbers are those of the summary, and it loads no other file."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from PIL import Image as Picture

from cifm_cli import keys
from cifm_cli.app import main
from cifm_cli.data.prepare import qc_report
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.data.slide import describe_slide
from cifm_cli.errors import CifmError

pytestmark = pytest.mark.figures


@pytest.fixture(scope="module")
def text(prepared_synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a prepared slide, with its figures."""
    slide = Path(shutil.copy(prepared_synthetic, tmp_path_factory.mktemp("report")))
    return qc_report.write_qc_report(slide).read_text(encoding="utf8")


def cells_of(text: str, first: str) -> list[str]:
    """The remaining cells of the table row that begins with `first`."""
    row = re.search(rf'<th scope="row"[^>]*>{re.escape(first)}</th>(.*?)</tr>', text, re.DOTALL)
    assert row, first
    return re.findall(r"<td[^>]*>(.*?)</td>", row.group(1))


def test_all_numbers_of_the_summary_are_in_the_report(text: str, prepared_synthetic: Path) -> None:
    report = describe_slide(prepared_synthetic)[keys.REPORT]
    assert cells_of(text, "in the download")[0] == f"{report['cells']['in']:,}"
    for reason, count in report["cells"]["dropped"].items():
        assert cells_of(text, f"dropped: {reason}")[0] == f"{count:,}"
    for reason, part in report["genes"]["dropped"].items():
        number, names = cells_of(text, f"dropped: {reason}")
        assert number == f"{part['count']:,}"
        assert part["names"][0] in names
    for region, size in report["split"].items():
        assert cells_of(text, f"cells in {region}")[0].startswith(f"{size:,} ")
    assert cells_of(text, "coordinates") == [report["units"]["derivation"]]
    assert f"All {report['cells']['kept']:,} cells" in text


def test_matched_mapped_and_dropped_genes_sum_to_all_genes() -> None:
    none: dict[str, object] = {"count": 0, "names": []}
    two = {"count": 2, "names": ["A", "B"]}
    genes = {"in": 10, "dropped": {"symbol of several genes": two}, "mapped": two, "summed": none, "kept": 8}
    rows = {row[0]: row[1:] for row in qc_report._genes(genes).rows}
    assert rows["matched by their Ensembl id"][0] == "6"
    assert rows["mapped by a table"] == ["2", "A, B"]
    assert rows["dropped: symbol of several genes"] == ["2", "A, B"]
    assert "2 features" in qc_report._genes_note({"genes": genes})


def test_report_embeds_six_images_and_loads_nothing(text: str) -> None:
    sources = re.findall(r'src(?:set)?="(.*?)"', text)
    assert len(sources) == 2 * 6, "each for light and for dark pages"
    for source in sources:
        content = base64.b64decode(source.removeprefix("data:image/png;base64,"))
        assert np.asarray(Picture.open(io.BytesIO(content)).convert("RGB")).std() > 5  # something is drawn
    assert re.findall(r"https?:|<link|url\(", text) == []


def test_the_answer_names_the_number_of_warnings_and_they_follow_it(prepared_synthetic: Path, tmp_path: Path) -> None:
    slide = tmp_path / "foreign.h5ad"
    mouse = ad.read_h5ad(prepared_synthetic)
    mouse.var_names = [f"ENSMUSG{i:011d}" for i in range(mouse.n_vars)]
    del mouse.uns[keys.CIFM]
    mouse.write_h5ad(slide)
    assert main(["prepare", str(slide), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "foreign.html").read_text(encoding="utf8")
    assert "2 warnings have to be read first." in text
    assert "genes are mouse" in re.findall("<li>(.*?)</li>", text)[1]


def test_large_slide_shows_a_random_subset(
    prepared_synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "large.h5ad"
    copy.write_bytes(prepared_synthetic.read_bytes())
    monkeypatch.setattr(qc_report, "_MAX_SHOWN", 100)
    text = qc_report.write_qc_report(copy).read_text(encoding="utf8")
    kept = describe_slide(copy)[keys.REPORT]["cells"]["kept"]
    assert f"100 of the {kept:,} cells, drawn at random" in text
    rows = qc_report._choose_rows(kept)
    assert len(set(rows.tolist())) == 100
    assert rows.max() < kept


def test_degrees_by_hand() -> None:
    #  a . b . . . c      a and b are 2 um apart, c is 4 um from b
    xy_um = np.array([[0.0, 0.0], [2.0, 0.0], [6.0, 0.0]])
    assert qc_report._degrees(xy_um, np.arange(3), 2.0).tolist() == [1, 1, 0]
    assert qc_report._degrees(xy_um, np.array([1]), 4.0).tolist() == [2]


@pytest.mark.parametrize("largest", [0, 1, 20, 59, 60, 61, 4_000])
def test_bins_hold_equally_many_whole_numbers(largest: int) -> None:
    edges = qc_report._edges(np.arange(largest + 1))
    steps = np.diff(edges)
    assert (steps == steps[0]).all()
    assert steps[0] == round(steps[0])
    assert edges[0] == -0.5
    assert len(steps) <= 62


def test_missing_report_is_written_and_another_file_is_not_replaced(xenium_download: Path, tmp_path: Path) -> None:
    config = PrepareConfig(out=tmp_path, qc_report=True)
    slide = prepare_download(xenium_download, config).path
    written = qc_report.qc_report_path(slide)
    written.unlink()
    assert prepare_download(xenium_download, config).up_to_date
    assert written.exists()
    slide.unlink()
    assert not prepare_download(xenium_download, config).up_to_date  # a report of cifm is replaced
    slide.unlink()
    written.write_text("mine", encoding="utf8")
    with pytest.raises(CifmError, match="not a report that cifm wrote"):
        prepare_download(xenium_download, config)
    assert written.read_text(encoding="utf8") == "mine"
    assert not slide.exists()


def test_pipeline_does_not_import_matplotlib() -> None:
    code = "import sys, cifm_cli.data.prepare.pipeline; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
