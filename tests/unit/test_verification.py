"""`--no-verify` skips the comparison with checksums for one command, also in its worker processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cifm_cli.verification import NO_VERIFY, verification_enabled, verification_skipped


def enabled_in_child() -> bool:
    code = "from cifm_cli.verification import verification_enabled; print(verification_enabled())"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "True\n"


def test_verification_is_skipped_within_the_block_and_in_child_processes() -> None:
    assert verification_enabled()
    with verification_skipped():
        assert not verification_enabled()
        assert not enabled_in_child()
    assert verification_enabled()


@pytest.mark.parametrize(("value", "enabled"), [("1", False), ("0", True), ("", True)])
def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch, value: str, enabled: bool) -> None:
    monkeypatch.setenv(NO_VERIFY, value)
    assert verification_enabled() == enabled
    with verification_skipped():
        assert not verification_enabled()
    assert verification_enabled() == enabled


def test_the_option_holds_for_one_command(cifm, prepared_synthetic, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "cifm_cli.data.slide.describe_slide", lambda _path: seen.append(verification_enabled()) or {"kind": "slide"}
    )
    assert cifm("inspect", prepared_synthetic, "--no-verify").code == 0
    assert cifm("inspect", prepared_synthetic).code == 0
    assert seen == [False, True]
