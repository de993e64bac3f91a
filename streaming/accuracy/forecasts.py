"""The predictions topic as the join reads it: what of each prediction is scored, and which are not scored at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.metrics import named_intervals
from pipelines.kernels.windowing import KeyState
from schemas.avro_prediction import read_prediction
from schemas.prediction import ModelVersion, Role
from schemas.spec import Spec
from streaming.checkpoint import Checkpoint
from streaming.stage import Record, Stage

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is scored of a prediction; `offset` is its place in its `partition`.

    `cells` holds float32 (part, scored step, target), the parts being the forecast, the last observed value and, where
    there is a `coverage`, the bounds of that interval. Bytes, since very many of them may wait.
    """

    key: str
    origin_step: int
    model: ModelVersion
    role: Role
    partition: int
    offset: int
    coverage: float | None
    cells: bytes


class NotScored(Exception):
    """A prediction is not scored: `provisional`, `foreign` (of other windows, or no prediction), or `broken`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ForecastReader:
    """Reads the predictions of one spec."""

    def __init__(self, spec: Spec) -> None:
        self._fingerprint = spec.window_fingerprint
        self._step_ms, self._offset_ms = spec.grid.step, spec.grid.offset
        self._scored = [step - 1 for step in spec.scored_steps]
        self._targets = [target.name for target in spec.targets]
        self._models: dict[tuple[str, int], ModelVersion] = {}
        self._bounds: dict[tuple[str, ...], tuple[str, str, float] | None] = {}

    def read(self, record: Record, partition: int) -> Forecast:
        """What of a record is scored.

        Raises:
          NotScored: nothing, and why.
        """
        try:
            document = read_prediction(record.value or b"", dict(record.headers))
            model, role = document["model"], document["role"]
            if model["window_fingerprint"] != self._fingerprint:
                raise NotScored("foreign")
            if role == "provisional":
                raise NotScored("provisional")
            targets = {target["name"]: target for target in document["targets"]}
            bounds = self._widest(targets[self._targets[0]].get("quantiles") or {})
            cells = self._cells([targets[name] for name in self._targets], bounds)
            origin_step = (document["origin_ms"] - self._offset_ms) // self._step_ms
            name, version = model["name"], model["version"]
            known = self._models.setdefault((name, version), ModelVersion(name, version, self._fingerprint))
            key = document["key"]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
            raise NotScored("foreign") from exc
        if not np.isfinite(cells).all():
            raise NotScored("broken")
        coverage = None if bounds is None else bounds[2]
        return Forecast(key, origin_step, known, role, partition, record.offset, coverage, cells.tobytes())

    def _cells(self, targets: Sequence[Mapping[str, Any]], bounds: tuple[str, str, float] | None) -> Float32:
        scored = self._scored

        def of_steps(values: Callable[[Mapping[str, Any]], Sequence[float]]) -> list[list[float]]:
            return [[values(target)[step] for target in targets] for step in scored]

        parts = [of_steps(lambda target: target["mean"])]
        parts.append([[target["last_observed"] for target in targets]] * len(scored))
        if bounds is not None:
            lower, upper, _ = bounds
            parts.append(of_steps(lambda target: target["quantiles"][lower]))
            parts.append(of_steps(lambda target: target["quantiles"][upper]))
        return np.array(parts, np.float32)  # a null becomes NaN

    def _widest(self, quantiles: Mapping[str, Any]) -> tuple[str, str, float] | None:
        """The levels that bound the widest central interval, by name, and its coverage; None where there is none."""
        names = tuple(quantiles)
        if names not in self._bounds:
            self._bounds[names] = next(reversed(named_intervals(names)), None)
        return self._bounds[names]


class ForecastPartition:
    """One partition of the predictions topic.

    Args:
      name: `topic[partition]`, for messages.
      number: the partition's.
      reader: reads its predictions.
      take: is given each that may be scored, in order; tells whether it is waited for.
      lowest: tells the lowest offset that is needed again after a restart, of this partition.
      checkpoint: where it begins.
    """

    def __init__(
        self,
        name: str,
        number: int,
        reader: ForecastReader,
        *,
        take: Callable[[Forecast], bool],
        lowest: Callable[[int], int],
        checkpoint: Checkpoint,
    ) -> None:
        self.name, self.next_offset = name, checkpoint.replay_offset
        self._number, self._reader, self._take, self._lowest = number, reader, take, lowest
        self._fingerprint, self._partitions = checkpoint.window_fingerprint, checkpoint.partitions

    @property
    def clock_ms(self) -> int | None:
        """None: predictions have no clock."""
        return None

    @property
    def keys(self) -> Mapping[str, KeyState]:
        """Nothing: what is remembered of a key is in the join."""
        return {}

    def stage(self, records: Sequence[Record], now_ms: int) -> Stage:  # noqa: ARG002 (predictions have a past)
        """Reads the next records."""
        stage = self.idle(records[-1].offset + 1)
        stage.counts["predictions"] = len(records)
        for record in records:
            try:
                forecast = self._reader.read(record, self._number)
            except NotScored as exc:
                stage.counts[exc.reason] += 1
            else:
                stage.counts["repeated"] += not self._take(forecast)
        return stage

    def replay(self, records: Sequence[Record]) -> None:
        """Reads records that were read before."""
        self.apply(self.stage(records, 0))

    def idle(self, position: int = 0) -> Stage:
        """A stage of no records."""
        return Stage(next_offset=max(self.next_offset, position))

    def apply(self, stage: Stage) -> None:
        """Moves on."""
        self.next_offset = stage.next_offset

    def checkpoint(self, stage: Stage, notes: Mapping[str, Any] | None = None) -> Checkpoint:
        """Where the partition will stand once `stage` is applied."""
        return Checkpoint(
            offset=stage.next_offset,
            replay_offset=min(self._lowest(self._number), stage.next_offset),
            clock_ms=None,
            refused=(),
            window_fingerprint=self._fingerprint,
            partitions=self._partitions,
            notes=notes,
        )
