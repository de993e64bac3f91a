"""What a ring keeps: the newest steps, each with the row that came last."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streaming.dashboard.rings import StepRing

SIZE = 5
PUTS = st.lists(st.tuples(st.integers(-20, 20), st.integers(1, 12)), max_size=30)


@given(PUTS)
def test_the_newest_steps_in_order(puts: list[tuple[int, int]]) -> None:
    ring, known = StepRing(SIZE, 2), {}
    for number, (first, count) in enumerate(puts):
        rows = np.array([[number, step] for step in range(first, first + count)], np.float64)
        ring.put(first, rows)
        known |= dict.fromkeys(range(first, first + count), number)
    expected = {step: number for step, number in sorted(known.items()) if step > max(known) - SIZE}
    steps, columns = ring.window()
    assert dict(zip(steps.tolist(), columns[0].astype(int).tolist(), strict=True)) == expected
    assert columns[1].tolist() == steps.tolist()
