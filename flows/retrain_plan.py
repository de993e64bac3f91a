"""The plan of a retraining run: which data trains, validates and gates which model, from its interval alone.

      train                        validation        gap               gate
    ├───────── range ──────────┤├── validation ──┤├─ past + horizon ─┤├─ interval ─┤

The gap is as long as a window, so that no window of the gate's slice has seen a step that the model was fitted to.
Where the champion was fitted to later data, the gate's slice begins as far behind that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.registry import Registry
from models.version_files import record_of
from schemas.documents import canonical
from schemas.errors import InputError, SpecError
from schemas.spec import Spec
from schemas.split_spec import DateSplit
from schemas.units import iso_to_ms, ms_to_iso


@dataclass(frozen=True, slots=True)
class Champion:
    """The version to beat.

    `trained_to_ms` is the end of the data that it was fitted to, None where it does not say; `run` the folder of its
    training run, None where that is not known.
    """

    version: int
    window_fingerprint: str
    trained_to_ms: int | None
    run: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to do; times are epoch milliseconds, `spec` has the run's splits."""

    start_ms: int
    end_ms: int
    spec: Spec | None
    """None where the champion has seen all of the interval, so that there is nothing to gate on."""
    first_ms: int
    champion: Champion | None

    @property
    def interval(self) -> tuple[str, str]:
        """The run's interval, ISO 8601."""
        return ms_to_iso(self.start_ms), ms_to_iso(self.end_ms)

    def document(self, spec: Spec) -> dict[str, Any]:
        """What must be the same for a run to go on with what an earlier one has done, as JSON values."""
        settings = spec.retrain
        return {
            "interval": list(self.interval),
            "champion": None if self.champion is None else self.champion.version,
            "spec": spec.fingerprint if self.spec is None else self.spec.fingerprint,
            "start": settings.start,
            "completeness": settings.completeness,
            "gate": canonical(settings.gate),
            "canary": canonical(settings.canary),
            "slices": [canonical(one) for one in spec.evaluation.slices],
        }


def plan_of(spec: Spec, start_ms: int, end_ms: int, champion_version: int | None) -> Plan:
    """The plan for an interval.

    Args:
      spec: the stream.
      start_ms: of the interval.
      end_ms: of the interval, exclusive.
      champion_version: the version to beat; None where there is none.
    Raises:
      ModelError: the registry cannot be read.
    """
    settings, step = spec.retrain, spec.grid.step
    champion = None if champion_version is None else _champion(spec, champion_version)
    gap_ms = (spec.window.past + spec.window.horizon) * step
    trained_ms = start_ms - gap_ms - settings.validation_ms
    first_ms = trained_ms - settings.range
    gated_ms = start_ms
    if champion is not None and champion.trained_to_ms is not None:
        gated_ms = max(start_ms, champion.trained_to_ms + gap_ms)
    if gated_ms >= end_ms:
        return Plan(start_ms, end_ms, None, first_ms, champion)
    split = {
        "train": (first_ms, trained_ms),
        "validation": (trained_ms, start_ms - gap_ms),
        "test": (gated_ms, end_ms),
    }
    dates = {name: tuple(map(ms_to_iso, interval)) for name, interval in split.items()}
    of_run = spec.model_copy(
        update={
            "split": DateSplit.model_validate({"by": "dates", **dates}),
            "dataset": spec.dataset.model_copy(update={"layout": "block"}),
        }
    )
    # Made anew, so that no fingerprint of the spec that it was copied from stays cached in it.
    return Plan(
        start_ms, end_ms, Spec(**{name: getattr(of_run, name) for name in Spec.model_fields}), first_ms, champion
    )


def interval_of(spec: Spec, interval: tuple[str, str] | None, as_of: str | None, now_ms: int) -> tuple[int, int]:
    """The run's interval: as given, or the newest that is over at a time, counted from the epoch.

    Raises:
      InputError: it is none, or both are given.
      SpecError: `retrain.interval` is not a number of steps.
    """
    if interval is not None:
        if as_of is not None:
            raise InputError("expected --interval or --as-of, not both")
        start_ms, end_ms = (_time(text, "--interval") for text in interval)
        if start_ms >= end_ms:
            raise InputError(f"--interval: expected a start before the end, got {interval[0]} and {interval[1]}")
        for bound_ms in (start_ms, end_ms):
            if (bound_ms - spec.grid.offset) % spec.grid.step:
                raise InputError(f"--interval: expected the start of a step of the grid, got '{ms_to_iso(bound_ms)}'")
        return start_ms, end_ms
    length, offset = spec.retrain.interval, spec.grid.offset
    if length % spec.grid.step:
        raise SpecError("$.retrain.interval: expected a multiple of $.grid.step")
    time_ms = now_ms if as_of is None else _time(as_of, "--as-of")
    end_ms = (time_ms - spec.grid.lateness - offset) // length * length + offset
    return end_ms - length, end_ms


def _time(text: str, option: str) -> int:
    try:
        return iso_to_ms(text)
    except ValueError as exc:
        raise InputError(f"{option}: expected an ISO 8601 time, got '{text}'") from exc


def _champion(spec: Spec, version: int) -> Champion:
    registry = Registry(spec.paths.models, spec.model_name)
    said, record = record_of(registry.path(version)), registry.record_of(version)
    splits = said.get("lineage", {}).get("splits", {})
    origins = [splits[name].get("last_origin_ms") for name in ("train", "validation") if name in splits]
    known = [origin_ms + spec.window.horizon * spec.grid.step for origin_ms in origins if origin_ms is not None]
    return Champion(
        version,
        str(said.get("window_fingerprint", "")),
        max(known, default=None),
        None if record is None else record.run,
    )
