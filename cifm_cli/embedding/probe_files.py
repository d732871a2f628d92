"""The files of a probe: JSON, page, charts and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cifm_cli import workspace
from cifm_cli.embedding import probe_report
from cifm_cli.embedding.probe_tables import all_tables
from cifm_cli.embedding.scoring import ROC_AUC
from cifm_cli.errors import CifmError
from cifm_cli.report import html

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.embedding.probe_summary import ProbeResult


_SUFFIXES = (".html", ".png", ".svg", ".csv", ".parquet")  # of the other files


def require_result_name(out: Path) -> None:
    """Refuse a name of the JSON file that another file of the probe would have.

    Args:
        out: The JSON file.

    Raises:
        CifmError: Its suffix is that of another file.
    """
    if out.suffix.lower() in _SUFFIXES:
        raise CifmError(
            f"--out {out}: names the JSON file, and a {out.suffix} file of the same name is written too",
            f"give it the suffix .json: --out {out.with_suffix('.json')}",
        )


def write_probe(out: Path, result: ProbeResult, origin: dict[str, Any]) -> dict[str, Any]:
    """Write all files of a probe together.

    Args:
        out: The JSON file; the others have its name and another suffix.
        result: The result of a probe.
        origin: Dictionary from `provenance.collect`.

    Returns:
        The content of the JSON file.

    Raises:
        CifmError: A file cannot be written.
    """
    content = result.content | {"provenance": origin}
    with workspace.atomic_files(out.parent, out.name) as new:
        for image_format in ("png", "svg"):
            name = out.with_suffix(f".{image_format}").name
            (new / name).write_bytes(probe_report.draw_metric(result, ROC_AUC, image_format))
            calibration = probe_report.draw_reliability(result, image_format)
            (new / f"{out.stem}_calibration.{image_format}").write_bytes(calibration)
        for suffix, table in all_tables(result.content).items():
            table.to_csv(new / f"{out.stem}{suffix}.csv", index=False, lineterminator="\n")
            table.to_parquet(new / f"{out.stem}{suffix}.parquet", index=False, write_page_checksum=True)
        page, title = new / out.with_suffix(".html").name, f"Linear probe of {content['label']}"
        evidence = content["evidence"]
        html.write_report(
            page,
            title,
            probe_report.sections(result),
            origin,
            answer=evidence["answer"],
            remarks=evidence["remarks"],
        )
        workspace.write_json(new / out.name, content)
    return content
