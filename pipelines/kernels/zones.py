"""Local time: how far a zone's clocks are ahead of UTC, a whole array at a time.

A zone is a table of the moments at which its offset changes, made once out of the machine's time zone database; what
follows is integer arithmetic, so it has the same bits wherever that database says the same.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

_DAY_S = 86_400
_FIRST_DAY, _LAST_DAY = -25_567, 84_006  # 1900-01-01 and 2200-01-01; the offsets there hold before and after


def local_ms(zone: str, time_ms: Int64) -> Int64:
    """What the zone's clocks show, as if it were UTC: epoch milliseconds int64, the shape of `time_ms`."""
    if zone == "UTC":
        return time_ms
    changes_ms, offset_ms = _table(zone)
    local: Int64 = time_ms + offset_ms[np.searchsorted(changes_ms, time_ms, side="right")]
    return local


@lru_cache(maxsize=64)
def _table(zone: str) -> tuple[Int64, Int64]:
    """When the offset changes, int64 (change,), and the offsets before, between and after, int64 (change + 1,)."""
    info = ZoneInfo(zone)

    def offset_s(time_s: int) -> int:
        offset = datetime.fromtimestamp(time_s, UTC).astimezone(info).utcoffset()
        return 0 if offset is None else offset.days * _DAY_S + offset.seconds

    changes, offsets = [], [offset_s(_FIRST_DAY * _DAY_S)]
    for day in range(_FIRST_DAY, _LAST_DAY):
        before, after = day * _DAY_S, (day + 1) * _DAY_S
        if (end := offset_s(after)) == offsets[-1]:
            continue
        while after - before > 1:  # the second at which it changed; never twice within a day
            middle = (before + after) // 2
            before, after = (before, middle) if offset_s(middle) != offsets[-1] else (middle, after)
        changes.append(after)
        offsets.append(end)
    return np.array(changes, np.int64) * 1_000, np.array(offsets, np.int64) * 1_000
