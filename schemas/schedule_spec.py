"""Schedules: what starts a retraining."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from schemas.section import Section, Zone
from schemas.units import DurationMs


def _cron_expression(text: str) -> str:
    from cronsim import CronSim, CronSimError

    try:
        CronSim(text, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as exc:
        raise ValueError(f"expected a cron expression such as '0 3 * * *': {exc}") from exc
    return text


CronExpression = Annotated[str, AfterValidator(_cron_expression)]
"""Five fields (minute, hour, day of month, month, day of week), as Debian's cron reads them."""


class Schedule(Section):
    """When `tidegauge schedule` starts `tidegauge retrain`; at least one of `cron`, `fresh` and `drift`."""

    cron: CronExpression | None = None
    zone: Zone = "UTC"
    """Of the cron expression."""
    catch_up: Literal["none", "latest", "all"] = "latest"
    """Which of the times that were missed while no schedule ran are made up for."""
    jitter: DurationMs = 0
    """A cron time is put off by up to so much, always the same for the same time."""
    fresh: Annotated[DurationMs, Field(ge=1)] | None = None
    """So much more event time in the input topic than at the last retraining starts one."""
    drift: tuple[Literal["input_drift", "error_drift"], ...] = ()
    """The triggers that start one."""
    cooldown: DurationMs = 3_600_000
    """So long after a run neither fresh data nor drift starts another."""
    look: Annotated[DurationMs, Field(ge=1)] = 60_000
    """How often data, triggers and the probation are looked at."""

    @model_validator(mode="after")
    def _something_starts_it(self) -> Self:
        if self.cron is None and self.fresh is None and not self.drift:
            raise ValueError("expected cron, fresh or drift")
        return self
