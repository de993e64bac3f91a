"""One key's events to the records of its splits."""

from __future__ import annotations

import numpy as np

from pipelines.blocks import Block, BlockLayout
from pipelines.kernels.grid import Bool, Events, Float32, Int64, Outcome
from pipelines.kernels.windowing import Windowing
from pipelines.profiles import Profiler
from pipelines.reports import KeyReport, KeySplit, SketchReport
from pipelines.sink import Record, shard_name, shard_of
from pipelines.spans import Span
from pipelines.splits import TRAIN, Splitter
from pipelines.statistics import moments_by_feature, touched_rows
from pipelines.tfrecord import frame
from schemas.spec import Spec


class KeyWindows:
    """Lays the windows of whole keys into records."""

    def __init__(self, spec: Spec, *, all_origins: bool, span: Span | None = None) -> None:
        self._windowing = Windowing(spec)
        self._span = span
        self._layout = BlockLayout(spec)
        # A window of its own is many times its share of a block: what is spilled is blocks, whatever the layout.
        self._spilled = _packed if spec.dataset.layout == "window" else _framed
        self._splitter = Splitter(spec, all_origins=all_origins)
        self._profiler = Profiler(spec)
        self._features = [feature.name for feature in spec.stream.features]
        self._past, self._horizon = spec.window.past, spec.window.horizon
        self._shards = spec.dataset.shards

    def records(
        self, key: str, events: Events, clock_ms: Int64 | None = None
    ) -> tuple[list[tuple[str, Record]], KeyReport]:
        """The records of a key, each with the name of its file, and what to say about the key.

        Args:
          key: the key.
          events: all its events, by time and then position; in order of arrival where there are clocks.
          clock_ms: the partition's clock as each event came, int64 (event,). None for files: they tell nothing about
            arrival, so no event is too far behind its partition's clock.
        """
        _, runs, outcomes = self._windowing.push(self._windowing.empty(), events, partition_clock_ms=clock_ms)
        records: list[tuple[str, Record]] = []
        origin_steps: dict[str, list[Int64]] = {}
        train_rows: list[tuple[Float32, Bool]] = []
        shard = shard_of(key, self._shards)
        intervals = self._splitter.intervals(key, runs)
        for run in runs:
            for split, end in self._splitter.split(run, intervals):
                if self._span is not None:
                    end = end[self._span.owns(self._start_ms(run.steps.first + end))]
                if not len(end):
                    continue
                origin_steps.setdefault(split, []).append(run.steps.first + end)
                if split == TRAIN:
                    touched = touched_rows(len(run.steps), end, self._past, self._horizon)
                    if self._span is not None:  # each row once: the rows before belong to the span before
                        touched &= self._span.holds(self._start_ms(run.steps.first + np.arange(len(run.steps))))
                    train_rows.append((run.steps.values[touched], run.steps.observed[touched]))
                name = shard_name(split, shard, self._shards)
                for block in self._layout.blocks(run.steps, end):
                    place = (key.encode(), block.first_step, block.windows)
                    records.append((name, (*place, self._spilled(key, block))))
        if self._span is not None:
            outcomes = outcomes[self._span.holds(events.time_ms)]
        count = np.bincount(outcomes, minlength=len(Outcome)).tolist()
        report = KeyReport(
            key=key,
            profile=self._profiler.profile(events, count, runs),
            splits={
                split: KeySplit(
                    windows=sum(map(len, steps)),
                    first_origin_step=int(steps[0][0]),
                    last_origin_step=int(steps[-1][-1]),
                )
                for split, steps in origin_steps.items()
            },
            moments=moments_by_feature(self._features, train_rows),
        )
        return records, report

    def _start_ms(self, step: Int64) -> Int64:
        return step * self._windowing.grid.step_ms + self._windowing.grid.offset_ms

    def take_sketches(self) -> SketchReport:
        """The distributions of all keys since the last call."""
        return SketchReport(sketches=self._profiler.take_sketches())


def _framed(key: str, block: Block) -> bytes:
    return frame(block.encode(key))


def _packed(_: str, block: Block) -> bytes:
    return block.pack()
