"""The account of a simulation, made afterwards of what is in the topics and in the registry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.live_errors import LiveErrors
from flows.live_evidence import gather
from flows.regime_change import RegimeChange
from flows.simulation_result import Happening, LiveError, Serving, SimulationResult
from flows.verify import read_predictions, read_topic, verify_predictions
from models.registry import Registry
from schemas.dataset import DatasetFolder
from schemas.registry_record import Record
from schemas.spec import Spec
from schemas.trigger import read_trigger


@dataclass(frozen=True, slots=True)
class Simulated:
    """What was simulated: live from `begin_ms` to `end_ms`, and what happened when.

    `better` is the version that was found after the change, `sabotaged` the one that was pushed by hand.
    """

    begin_ms: int
    change: RegimeChange
    end_ms: int
    happened: tuple[Happening, ...]
    better: int | None
    sabotaged: int


def account_of(spec: Spec, simulated: Simulated, output: Path, seconds: Mapping[str, float]) -> SimulationResult:
    """Reads all topics back and makes the account, and the picture.

    Args:
      spec: the stream.
      simulated: what was.
      output: where the dataset of all windows and the picture are put.
      seconds: by step.
    Raises:
      TidegaugeError: a topic or the registry cannot be read.
    """
    from flows.simulation_picture import draw_simulation
    from pipelines.ingest import ingest

    topics, probation, target = spec.topics, spec.retrain.probation, spec.targets[0]
    begin_ms, change_ms, end_ms = simulated.begin_ms, simulated.change.time_ms, simulated.end_ms
    triggers = [read_trigger(record.value) for record in read_topic(spec, topics.triggers.name)]
    answered = [
        (value["key"], value["origin_ms"], value["model"]["version"])
        for value in read_predictions(spec, topics.predictions.name)
        if value["role"] == "champion"
    ]
    event_ms = np.array([record.timestamp for record in read_topic(spec, topics.input.name)])
    ingest(spec, inputs=[f"kafka:{topics.input.name}"], output=str(output / "all-windows"), all_origins=True)
    parity = verify_predictions(spec, DatasetFolder(output / "all-windows"), topics.predictions.name, after_ms=begin_ms)

    records = Registry(spec.paths.models, spec.model_name).records()
    back = next((one for one in records if one.event == "rolled_back" and one.rollback_of == simulated.sabotaged), None)
    served = _served(answered)
    first_ms = {one.version: one.first_ms for one in served}
    better_ms = first_ms.get(simulated.better or 0, end_ms)
    bad_ms = first_ms.get(simulated.sabotaged, end_ms)
    restored_ms = end_ms if back is None else first_ms.get(back.version or 0, end_ms)
    errors = LiveErrors.read(spec)
    result = SimulationResult(
        target=f"{target.name} ({target.unit})" if target.unit else target.name,
        offsets=dict(simulated.change.offsets),
        begin_ms=begin_ms,
        change_ms=change_ms,
        end_ms=end_ms,
        intervals=tuple(_intervals(errors, spec.retrain.interval, begin_ms, end_ms)),
        served=tuple(served),
        happened=simulated.happened,
        triggers=tuple(sorted(triggers, key=lambda one: one.time_ms)),
        better=simulated.better,
        events_to_better=int(((event_ms >= change_ms) & (event_ms < better_ms)).sum()) if simulated.better else None,
        sabotaged=simulated.sabotaged,
        restored=None if back is None else back.restored,
        champion=served[-1].version,
        probation_windows=0 if back is None else _judged(spec, records, back),
        probation_wanted=0 if probation is None else probation.windows,
        events=len(event_ms),
        predictions=parity,
        doubled=len(answered) - len({(key, origin_ms) for key, origin_ms, _ in answered}),
        failed=sum(1 for _ in read_topic(spec, topics.dead_letters.name)),
        error_before=errors.between(begin_ms, change_ms).mae,
        error_changed=errors.between(change_ms, better_ms).mae,
        error_after=errors.between(better_ms, bad_ms).mae,
        error_sabotaged=errors.between(bad_ms, restored_ms).mae,
        error_restored=errors.between(restored_ms, end_ms).mae,
        seconds=dict(seconds),
        picture=str(output / "simulation.png"),
    )
    draw_simulation(spec, result, errors, output / "simulation.png")
    return result


def _judged(spec: Spec, records: Sequence[Record], back: Record) -> int:
    """On how many windows it was decided that a version is to be taken back."""
    begun = next(one for one in records if (one.event, one.version) == ("on_probation", back.rollback_of))
    assert spec.retrain.probation is not None
    assert back.rollback_of is not None
    assert back.restored is not None
    since = begun.scored_from or {}
    return gather(spec, spec.retrain.probation, new=back.rollback_of, old=back.restored, since=since).windows


def _served(answered: Sequence[tuple[str, int, int]]) -> list[Serving]:
    """What each version answered, in their order."""
    count = Counter(version for _, _, version in answered)
    found = []
    for version in sorted(count):
        origins = [origin_ms for _, origin_ms, by in answered if by == version]
        found.append(Serving(version, count[version], min(origins), max(origins)))
    return found


def _intervals(errors: LiveErrors, interval_ms: int, begin_ms: int, end_ms: int) -> Iterable[LiveError]:
    for start_ms in range(begin_ms, end_ms, interval_ms):
        of_it = errors.between(start_ms, start_ms + interval_ms)
        if len(of_it):
            versions = tuple(np.unique(of_it.version).tolist())
            yield LiveError(start_ms, versions, len(of_it), of_it.mae, of_it.mae_persistence)
