"""Random streams derived from one seed, and the provenance of output files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from hypothesis import assume, given
from hypothesis import strategies as st

from cifm_cli import provenance

words = st.integers(0, 2**32 - 1) | st.text(max_size=8)
streams = st.tuples(st.integers(0, 2**70), st.lists(words, max_size=4))


def draw(seed: int, stream: list[int | str]) -> list[int]:
    return provenance.numpy_generator(seed, *stream).integers(2**62, size=2).tolist()


@given(streams)
def test_the_same_stream_has_the_same_numbers(stream) -> None:
    assert draw(*stream) == draw(*stream)


@given(streams, streams)
def test_different_streams_have_different_numbers(one, other) -> None:
    assume(one != other)
    assert draw(*one) != draw(*other)


@given(streams)
def test_a_trailing_zero_is_another_stream(stream) -> None:
    seed, rest = stream
    assert draw(seed, rest) != draw(seed, [*rest, 0])


def test_torch_streams_follow_numpy_streams() -> None:
    first, again, other = (provenance.torch_generator(0, "mask", step).initial_seed() for step in (1, 1, 2))
    assert first == again != other


def test_numbers_do_not_depend_on_the_machine() -> None:
    assert provenance.numpy_generator(0, "mask", 3).integers(1000, size=4).tolist() == [486, 923, 786, 980]


def test_inputs_with_the_same_file_name_are_kept_apart(tmp_path: Path) -> None:
    paths = [tmp_path / run / "model.safetensors" for run in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(path.parent.name)
    facts = json.loads(json.dumps(provenance.collect("evaluate", seed=1, inputs=paths, device="cpu")))
    assert [*facts["inputs"].values()] == [hashlib.sha256(name).hexdigest() for name in (b"a", b"b")]
    assert (facts["seed"], facts["device"], facts["command"]) == (1, "cpu", "evaluate")
    assert facts["packages"]["torch"]
