"""Drift: the features' values and the champion's errors, a block of time after the other.

What is closed while a partition's clock is in a block of time belongs to that block, so that it does not matter how
events are cut into batches, and nothing comes late. A block is over once the clock of every partition has left it;
then the values of the last blocks are compared with those of the champion's dataset, and the champion's mean error of
the block goes into the Page-Hinkley test. A trigger is raised where a measure comes to be above its threshold, and the
next one of that measure only after it has come back.

The champion is the newest version of which a prediction with that role has been scored. With another one all begins
anew: its dataset is another, and so is what is usual for its errors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.drift import histograms, jensen_shannon, population_stability
from pipelines.kernels.grid import NO_POSITION
from pipelines.kernels.page_hinkley import PageHinkley
from pipelines.kernels.sketch import Sketch, bits_for
from schemas.accuracy_spec import ErrorDrift, InputDrift
from schemas.spec import Spec
from schemas.trigger import Measure, Trigger
from streaming.accuracy.actuals import Closed
from streaming.accuracy.baseline import Baseline
from streaming.accuracy.join import Match

Float32 = NDArray[np.float32]

MIN_BLOCK_STEPS = 24
"""Of a block that the spec does not tell the length of: shorter ones cost more than they tell."""
DIGITS = 9
"""Significant digits of a mean error: more of them depend on the order in which errors were added up."""
_NAMES: Mapping[Measure, str] = {"jensen_shannon": "Jensen-Shannon", "psi": "PSI", "page_hinkley": "Page-Hinkley"}


@dataclass(slots=True)
class _Values:
    """The observed values of each feature that were closed in one block of one partition."""

    lowest: int = NO_POSITION
    """The lowest position that they depend on."""
    arrays: list[list[Float32]] = field(default_factory=list)
    sketches: list[Sketch | None] = field(default_factory=list)

    def sketch(self, number: int, bits: int) -> None:
        """Takes what there is of a feature into its sketch."""
        if self.arrays[number]:
            fresh, before = Sketch.of(np.concatenate(self.arrays[number]), bits), self.sketches[number]
            self.sketches[number] = fresh if before is None else Sketch.merged([before, fresh])
            self.arrays[number] = []


@dataclass(slots=True)
class _Errors:
    """The champion's errors in one block, by version: their sum and the number of cells; and what they depend on."""

    by_version: dict[int, tuple[float, int]] = field(default_factory=dict)
    lowest: dict[int, int] = field(default_factory=dict)
    """By partition of the input."""
    lowest_offset: dict[int, int] = field(default_factory=dict)
    """By partition of the predictions topic."""


@dataclass(frozen=True, slots=True)
class DriftMeasure:
    """What was measured last; `feature` is None of errors."""

    measure: Measure
    feature: str | None
    value: float
    threshold: float


class DriftWatch:
    """Watches one stream.

    Args:
      spec: the stream's.
      baseline_of: what is known of a version's dataset.
      report: is told, in words, what a person should know.
      notes: what `notes` gave at the last commit; None where there was none.
    """

    def __init__(
        self,
        spec: Spec,
        baseline_of: Callable[[int], Baseline | None],
        report: Callable[[str], None],
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        drift = spec.accuracy.drift
        self._stream, self._input, self._error, self._clear = spec.stream.name, drift.input, drift.error, drift.clear
        self._baseline_of, self._report = baseline_of, report
        self.block_steps = block_steps(spec)
        self._step_ms, self._offset_ms = spec.grid.step, spec.grid.offset
        self._features = [
            (index, feature.name, bits_for(categorical=feature.categorical))
            for index, feature in enumerate(spec.stream.features)
            if feature.calendar is None and feature.role != "label"
        ]
        self._window = 1 if self._input is None else self._input.blocks
        self._values: dict[int, dict[int, _Values]] = defaultdict(dict)  # partition -> block ->
        known = notes or {}
        self._done: int | None = known.get("done")
        """The last block that was looked at."""
        self._champion: int | None = known.get("champion")
        self._errors: dict[int, _Errors] = {}
        self._test = PageHinkley(*known["test"]) if "test" in known else PageHinkley()
        self._open = {(measure, feature) for measure, feature in known.get("open", ())}
        self.measures: list[DriftMeasure] = []

    def notes(self) -> dict[str, Any]:
        """What a successor must know beside the values and errors, which it reads again; JSON values."""
        return {
            "done": self._done,
            "champion": self._champion,
            "test": self._test.document(),
            "open": sorted(self._open, key=str),
        }

    # --- what comes in ---

    def close(self, closed: Closed) -> None:
        """Takes the values of closed steps."""
        if self._input is None or (self._done is not None and closed.block <= self._done - self._window + 1):
            return
        blocks = self._values[closed.partition]
        values = blocks.get(closed.block)
        if values is None:
            for before in blocks.values():  # nothing more comes of a block that the clock has left
                for number, (_, _, bits) in enumerate(self._features):
                    before.sketch(number, bits)
            nothing: list[list[Float32]] = [[] for _ in self._features]
            values = blocks[closed.block] = _Values(arrays=nothing, sketches=[None] * len(self._features))
        values.lowest = min(values.lowest, int(closed.anchor.min(initial=NO_POSITION)))
        steps = closed.steps
        for number, (column, _, _) in enumerate(self._features):
            observed = steps.values[steps.observed[:, column], column]
            if len(observed):
                values.arrays[number].append(observed)

    def score(self, matches: Sequence[Match]) -> None:
        """Takes the errors of the champion's predictions."""
        if self._error is None and self._input is None:
            return
        for match in matches:
            scored = match.scored
            if scored.role != "champion" or (self._done is not None and match.block <= self._done):
                continue
            version = scored.model.version
            baseline = self._baseline_of(version)
            error = np.abs(scored.forecast.astype(np.float64) - scored.actual)
            if baseline is not None:
                error /= baseline.deviation
            seen = np.isfinite(error)
            errors = self._errors.setdefault(match.block, _Errors())
            total, cells = errors.by_version.get(version, (0.0, 0))
            errors.by_version[version] = total + float(error[seen].sum()), cells + int(seen.sum())
            _lower(errors.lowest, match.partition, match.anchor)
            _lower(errors.lowest_offset, match.number, match.offset)

    # --- what comes out ---

    def look(self, over: int | None) -> list[Trigger]:
        """Looks at every block that is over, up to the block `over`, and tells what is drift."""
        triggers: list[Trigger] = []
        if over is not None:
            for block in sorted(block for block in self._known() if block <= over):
                if self._done is None or block > self._done:
                    triggers += self._look(block)
                    self._done = block
            self._forget()
        return triggers

    def lowest_position(self, partition: int) -> int:
        """The lowest position in an input partition that the values and errors which are kept depend on."""
        lowest = [values.lowest for values in self._values[partition].values()]
        lowest += [errors.lowest.get(partition, NO_POSITION) for errors in self._errors.values()]
        return min(lowest, default=NO_POSITION)

    def lowest_offset(self, number: int) -> int:
        """The lowest offset in a partition of the predictions topic that the errors which are kept depend on."""
        lowest = (errors.lowest_offset.get(number, NO_POSITION) for errors in self._errors.values())
        return min(lowest, default=NO_POSITION)

    def _known(self) -> set[int]:
        return {block for blocks in self._values.values() for block in blocks} | self._errors.keys()

    def _look(self, block: int) -> list[Trigger]:
        errors = self._errors.get(block, _Errors())
        champion = max(errors.by_version, default=None)
        if champion is not None and (self._champion is None or champion > self._champion):
            self._champion, self._test, self._open = champion, PageHinkley(), set()
            if self._input is not None and self._baseline_of(champion) is None:
                self._report(f"version {champion} has no statistics of its dataset: its inputs are not looked at")
        if self._champion is None:
            return []
        self.measures = [*self._inputs(block, self._champion), *self._errors_of(block, self._champion)]
        return [trigger for measure in self.measures for trigger in self._excursion(measure, block, self._champion)]

    def _inputs(self, block: int, champion: int) -> Iterator[DriftMeasure]:
        baseline = self._baseline_of(champion)
        if self._input is None or baseline is None:
            return
        for number, (_, name, bits) in enumerate(self._features):
            current = self._sketch(number, bits, block)
            if name in baseline.sketches and current is not None and current.size >= self._input.least:
                yield from _compared(self._input, name, baseline.sketches[name], current)

    def _sketch(self, number: int, bits: int, block: int) -> Sketch | None:
        """The values of a feature in the window that ends with a block."""
        parts = []
        for blocks in self._values.values():
            for at, values in blocks.items():
                if block - self._window < at <= block:
                    values.sketch(number, bits)
                    if (sketch := values.sketches[number]) is not None:
                        parts.append(sketch)
        return Sketch.merged(parts) if parts else None

    def _errors_of(self, block: int, champion: int) -> Iterator[DriftMeasure]:
        total, cells = self._errors.get(block, _Errors()).by_version.get(champion, (0.0, 0))
        if self._error is None or not cells:
            return
        self._test = _tested(self._error, self._test, float(f"{total / cells:.{DIGITS}g}"))
        yield DriftMeasure("page_hinkley", None, self._test.measure, self._error.threshold)

    def _excursion(self, measure: DriftMeasure, block: int, champion: int) -> Iterator[Trigger]:
        place = measure.measure, measure.feature
        if place in self._open:
            if measure.value < self._clear * measure.threshold:
                self._open.discard(place)
        elif measure.value > measure.threshold:
            self._open.add(place)
            yield Trigger(
                stream=self._stream,
                kind="error_drift" if measure.feature is None else "input_drift",
                time_ms=(block + 1) * self.block_steps * self._step_ms + self._offset_ms,
                reason=_reason(measure, champion),
                measure=measure.measure,
                value=measure.value,
                threshold=measure.threshold,
                model_version=champion,
                feature=measure.feature,
            )

    def _forget(self) -> None:
        if self._done is None:
            return
        for blocks in self._values.values():
            for block in [block for block in blocks if block <= self._done - self._window + 1]:
                del blocks[block]
        self._errors = {block: errors for block, errors in self._errors.items() if block > self._done}


def _lower(lowest: dict[int, int], place: int, position: int) -> None:
    lowest[place] = min(lowest.get(place, position), position)


def block_steps(spec: Spec) -> int:
    """Steps of a block of time."""
    return spec.accuracy.drift.block or max(spec.window.horizon, MIN_BLOCK_STEPS)


def _compared(limits: InputDrift, feature: str, baseline: Sketch, current: Sketch) -> Iterator[DriftMeasure]:
    bins = histograms(baseline, current)
    if limits.jensen_shannon is not None:
        yield DriftMeasure("jensen_shannon", feature, jensen_shannon(*bins), limits.jensen_shannon)
    if limits.psi is not None:
        yield DriftMeasure("psi", feature, population_stability(*bins), limits.psi)


def _tested(limits: ErrorDrift, test: PageHinkley, error: float) -> PageHinkley:
    return test.after(error, tolerance=limits.tolerance, threshold=limits.threshold, warm_up=limits.warm_up)


def _reason(measure: DriftMeasure, champion: int) -> str:
    above = f"{_NAMES[measure.measure]} {measure.value:.3g} > {measure.threshold:g}"
    if measure.feature is None:
        return f"errors of version {champion}: {above}: they have risen above what they were at first"
    return f"{measure.feature}: {above} against the dataset of version {champion}"
