"""Durations and instants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.units import format_duration, iso_to_ms, ms_to_iso, parse_duration_ms


@given(st.integers(0, 10**12))
def test_durations_read_back(duration_ms: int) -> None:
    assert parse_duration_ms(format_duration(duration_ms)) == duration_ms


@given(st.integers(iso_to_ms("0001-01-01"), iso_to_ms("9999-12-31T23:59:59.999")))
def test_instants_read_back(time_ms: int) -> None:
    assert iso_to_ms(ms_to_iso(time_ms)) == time_ms


@pytest.mark.parametrize("text", ["5", "1.5h", "-1h", "h", "1 fortnight", "", None, 5, True])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration_ms(text)


def test_iso_times() -> None:
    assert iso_to_ms("2013-01-01T06:00:00Z") == 1_357_020_000_000
    assert iso_to_ms("2013-01-01T06:00:00+01:00") == 1_357_016_400_000
    assert iso_to_ms("1969-12-31T23:59:59.9995Z") == -1  # rounded down
    assert ms_to_iso(-1) == "1969-12-31T23:59:59.999Z"
