"""Damaged slides: an error with a hint, the result of the intact slide, or a warning; never anything else.

`run_mutations.py` tries many more, with all commands.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from example_counts import num_examples
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("commands run in forked processes with limits", allow_module_level=True)

from hdf5_mutations import CHANGES, on_a_slide
from outcomes import GOOD, MutationRunner

_COMMANDS = ("inspect", "inspect embedded", "embed", "annotate", "probe")


# Shrinking would run commands again and again, and the kind with its seed says everything.
@settings(
    max_examples=num_examples(12, thorough=100),
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(kind=st.sampled_from(sorted(CHANGES)), seed=st.integers(0, 2**32 - 1))
def test_damage_is_never_silent_and_never_a_traceback(runner: MutationRunner, kind: str, seed: int) -> None:
    outcome, text, folder = runner.run(on_a_slide(CHANGES[kind], _COMMANDS), seed)
    assert outcome in GOOD, f"{outcome}, {kind}: {text}\n{folder}"


def test_the_runner_notices_what_it_looks_for(runner: MutationRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome_of(bug) -> str:
        monkeypatch.setattr("outcomes.main", bug)
        return runner.run(lambda *_: (["inspect", "prepared"], "bug"), 0)[0]

    def allocate(_argv: list[str]) -> int:
        return len(bytearray(300_000_000)) * 0

    assert outcome_of(lambda _: 1 // 0) == "traceback"
    assert outcome_of(lambda _: 1) == "error without hint"
    assert outcome_of(allocate) == "over-allocation"
    assert outcome_of(lambda _: Path("out").mkdir() or Path("out/x.csv").write_text("1") * 0) == "different result"
