"""Results that are computed ahead in threads."""

from __future__ import annotations

from threading import Event, get_ident

import pytest

from cifm_cli.data.prefetch import prefetch


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (2, 3), (1, 0)])
def test_prefetch_gives_the_results_of_map(workers: int, ahead: int) -> None:
    assert list(prefetch(lambda number: number**2, range(7), workers, ahead)) == [n**2 for n in range(7)]
    assert list(prefetch(str, [], workers, ahead)) == []


def test_next_result_is_computed_while_the_previous_one_is_used() -> None:
    begun = [Event() for _ in range(4)]

    def compute(number: int) -> int:
        begun[number].set()
        return get_ident()

    made = prefetch(compute, range(4))
    assert next(made) != get_ident()
    assert begun[1].wait(10)
    assert not begun[2].is_set(), "only one result is computed ahead"
    made.close()


def test_exception_is_raised_where_its_result_is_requested() -> None:
    made = prefetch(lambda number: 1 // number, [1, 0, 1])
    assert next(made) == 1
    with pytest.raises(ZeroDivisionError):
        next(made)
