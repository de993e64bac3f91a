"""The clocks of zones against Python's own, one moment at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kernels import calendar
from pipelines.kernels.zones import local_ms

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SOME = ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kathmandu",
        "Pacific/Apia", "Africa/Monrovia"]  # fmt: skip


def naive_local_ms(zone: str, time_ms: int) -> int:
    offset = (EPOCH + timedelta(milliseconds=time_ms)).astimezone(ZoneInfo(zone)).utcoffset()
    assert offset is not None
    return time_ms + offset // timedelta(milliseconds=1)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SOME), st.lists(st.integers(-2_208_988_800_000, 7_258_118_399_999), max_size=30))
def test_local_time_is_pythons(zone: str, moments: list[int]) -> None:
    time_ms = np.array(moments, np.int64)
    assert local_ms(zone, time_ms).tolist() == [naive_local_ms(zone, moment) for moment in time_ms.tolist()]


@pytest.mark.slow
@pytest.mark.parametrize("zone", sorted(available_timezones()))
def test_the_table_has_every_change_of_every_zone(zone: str) -> None:
    """The table looks once a day, so a zone that changed there and back within a day would be read wrongly."""
    moments = np.arange(0, 2_145_916_800_000, 6 * 3_600_000)  # to 2038
    assert local_ms(zone, moments).tolist() == [naive_local_ms(zone, moment) for moment in moments.tolist()]


def test_clocks_jump_at_the_very_second() -> None:
    spring = int(datetime(2021, 3, 28, 1, tzinfo=UTC).timestamp()) * 1000
    moments = np.array([spring - 1, spring])
    assert (local_ms("Europe/Berlin", moments) - moments).tolist() == [3_600_000, 7_200_000]
    phases = calendar.phase("time_of_day", moments, "Europe/Berlin")
    assert phases[1] == np.float32(3 / 24 - 0.5)
    assert phases[0] == np.float32((2 * 3_600_000 - 1) / 86_400_000 - 0.5)


def test_a_day_of_the_week_is_a_local_one() -> None:
    sunday_noon_utc = int(datetime(2021, 3, 28, 12, tzinfo=UTC).timestamp()) * 1000
    moment = np.array([sunday_noon_utc])
    in_apia = calendar.phase("day_of_week", moment, "Pacific/Apia")  # Monday, 02:00 with daylight saving
    assert in_apia == np.float32(2 / 168 - 0.5)
