"""What people read goes to stderr, results to stdout; nothing is cut, coloured or interpreted in a log."""

from __future__ import annotations

import pytest

from cifm_cli.report import terminal


def test_what_is_said_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say("[b]x[/b] :smile: 1,000 " + "long " * 40)
    terminal.warn("[i]y[/i]")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "[b]x[/b] :smile: 1,000 " + "long " * 40 + "\nwarning: [i]y[/i]\n"


def test_a_wide_table_keeps_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.table("T", [f"column {i}" for i in range(20)], [[f"{i:.10f}" for i in range(20)]], best=[(0, 3)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[-1].split() == [f"{i:.10f}" for i in range(20)]


def test_progress_is_silent_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress("cells", 10) as advance:
        advance(5, "half")
    assert capsys.readouterr() == ("", "")


def test_listing_aligns_columns(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.listing([("a", "b"), ("long", "")])
    assert capsys.readouterr() == ("a     b\nlong\n", "")


def test_emit_refuses_what_json_has_not() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        terminal.emit({"a": float("inf")})


def test_flatten() -> None:
    assert terminal.flatten({"a": {"b": 1, "c": [1, 2]}, "d": None, "e": "x" * 150}) == [
        ("a.b", "1"),
        ("a.c", "1, 2"),
        ("d", "-"),
        ("e", "x" * 100 + " ..."),
    ]
