"""Messages go to stderr, results to stdout; nothing is cut, coloured or interpreted when stderr is a file."""

from __future__ import annotations

import io
import logging
import time

import pytest
from rich.console import Console

from cifm_cli.report import terminal
from cifm_cli.report.table import Table


def test_messages_are_printed_without_interpretation(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say("[b]x[/b] :smile: 1,000 " + "long " * 40)
    terminal.warn("[i]y[/i]")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "[b]x[/b] :smile: 1,000 " + "long " * 40 + "\nwarning: [i]y[/i]\n"


def test_a_wide_table_keeps_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    row = [f"{i:.10f}" for i in range(20)]
    terminal.show_table("T", Table([f"column {i}" for i in range(20)], [row], best=[(0, 3)]))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[-1].split() == row


def test_progress_is_silent_when_stderr_is_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.showing_logs(), terminal.progress("cells", 10) as advance:
        advance(5, "half")
    assert capsys.readouterr() == ("", "")


def test_progress_bars_appear_only_while_a_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "_stderr", lambda: Console(file=screen, force_terminal=True))

    def advance_once() -> None:
        with terminal.progress("counting cells", 10) as advance:
            advance(5)

    advance_once()
    assert screen.getvalue() == ""
    with terminal.showing_logs():
        advance_once()
    assert "counting cells" in screen.getvalue()
    printed = len(screen.getvalue())
    advance_once()
    assert len(screen.getvalue()) == printed


def test_log_records_are_shown_only_while_a_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("cifm_cli.somewhere")
    with terminal.showing_logs():
        logger.info("a note")
        logger.warning("a doubt")
    logger.info("another note")
    assert capsys.readouterr() == ("", "a note\nwarning: a doubt\n")


NAME = "a\x1b[31m\x07\udcff\u202e[/b] é"
SHOWN = "a\\x1b[31m\\x07\\xff\\u202e[/b] é"


def test_control_characters_and_brackets_of_names_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.fail(NAME, NAME)
    terminal.warn(NAME)
    terminal.say(NAME)
    terminal.show_table(NAME, Table([NAME], [[NAME]]))
    terminal.listing([(NAME,)])
    out, err = capsys.readouterr()
    assert out == f"{SHOWN}\n"
    assert [line.strip() for line in err.splitlines()] == [
        f"error: {SHOWN}", f"hint: {SHOWN}", f"warning: {SHOWN}", SHOWN, SHOWN, SHOWN, SHOWN,
    ]  # fmt: skip


def test_listing_aligns_columns(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.listing([("a", "b"), ("long", "")])
    assert capsys.readouterr() == ("a     b\nlong\n", "")


def test_emit_refuses_infinity() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        terminal.emit({"a": float("inf")})


def test_flatten() -> None:
    assert terminal.flatten({"a": {"b": 1, "c": [1, 2]}, "d": None, "e": "x" * 150}) == [
        ("a.b", "1"),
        ("a.c", "1, 2"),
        ("d", "-"),
        ("e", "x" * 100 + " ..."),
    ]


def test_progress_in_a_log_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 steps a second: a line after 30 and 60 seconds, and the limit of 100 seconds ends before all steps are taken."""
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    with terminal.showing_logs(), terminal.progress("training", 1_000, limit_s=100.0) as advance:
        for _ in range(80):
            clock[0] += 1.0
            advance(2, "loss 1")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "loss 1: 60 of 1,000 (6 %), 2.0/s, 0:01:10 left",
        "loss 1: 120 of 1,000 (12 %), 2.0/s, 0:00:40 left",
    ]


def test_steps_of_an_earlier_run_do_not_count_as_speed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    with terminal.showing_logs(), terminal.progress("training", 700) as advance:
        advance(500)
        clock[0] = 50.0
        advance(100)
    assert capsys.readouterr().err == "training: 600 of 700 (86 %), 2.0/s, 0:00:50 left\n"


def test_quiet_leaves_warnings_errors_and_results(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("cifm_cli.somewhere")
    with terminal.showing_logs(), terminal.quietened():
        terminal.say("a message")
        terminal.show_table("T", Table(["a"], [["b"]]))
        logger.info("a note")
        logger.warning("a doubt")
        terminal.fail("a problem", "a remedy")
        terminal.listing([("a result",)])
    assert capsys.readouterr() == ("a result\n", "warning: a doubt\nerror: a problem\nhint: a remedy\n")
    terminal.say("loud again")
    assert capsys.readouterr().err == "loud again\n"


def test_progress_in_a_log_is_shown_while_the_first_unit_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.02)
    with terminal.showing_logs():
        with terminal.progress("scoring", 10):
            time.sleep(0.2)
        with terminal.progress("fitting", None):
            time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert "scoring: 0 of 10 after 0:00:00" in lines
    assert "fitting: 0:00:00 so far" in lines


def test_long_lists_end_at_a_whole_value() -> None:
    names = [f"column_{number:03}" for number in range(20)]
    ((_, text),) = terminal.flatten({"columns": names})
    assert text == f"{', '.join(names[:8])}, and 12 more"
    assert terminal.flatten({"columns": names[:8]}) == [("columns", ", ".join(names[:8]))]
