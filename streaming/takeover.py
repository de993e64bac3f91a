"""Taking over: from where on a partition is read when it is assigned, and what its windows are rebuilt from.

A partition that the group has committed goes on there. Where its windows cannot be had as they were, because the spec's
windows are others now, the topic has more partitions, or retention has removed events, they are rebuilt from what there
is, and windows that an event may be missing from are not predicted: they are counted as warming.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from kafka import TopicPartition

from pipelines.kernels.grid import Grid
from pipelines.kernels.windowing import KeyState
from schemas.spec import Spec
from streaming.changelog import Changelog
from streaming.checkpoint import Checkpoint
from streaming.dead_letters import refused_offsets
from streaming.event_partition import UNKNOWN_MS, EventPartition
from streaming.input_topic import InputTopic, Start, name
from streaming.restore import Reading, replaying
from streaming.topics import TopicAdmin


class Seeds(Protocol):
    """States of keys from a dataset."""

    def states(self, partition: int, partitions: int, position: int) -> dict[str, KeyState]:
        """The states of the keys of one of `partitions` partitions.

        Args:
          partition: its number.
          partitions: how many the topic has.
          position: what is to stand for the positions of the events that the states are made of.
        """
        ...


class Takeover:
    """Decides how partitions are taken over.

    Args:
      spec: the stream.
      topic: its input.
      start: where to begin when the group has committed nothing.
      partition: makes a partition, of what `EventPartition` takes and of `whole_keys` and `has_changelog`.
      grid: closes its steps.
      changelog: where the states of keys are, if they are in a topic.
      seeds: states from a dataset, if there is one.
      report: is told, in words, what a person should know.
    """

    def __init__(
        self,
        spec: Spec,
        topic: InputTopic,
        *,
        start: Start,
        partition: Callable[..., EventPartition[Any]],
        grid: Grid,
        changelog: Changelog | None = None,
        seeds: Seeds | None = None,
        report: Callable[[str], None],
    ) -> None:
        self._spec, self._input, self._partition, self._grid = spec, topic, partition, grid
        self._start, self._changelog, self._seeds, self._report = start, changelog, seeds, report
        self._reach_ms = spec.span_ms + spec.grid.max_disorder

    # --- where ---

    def checkpoints(
        self, partitions: Sequence[TopicPartition]
    ) -> tuple[dict[TopicPartition, Checkpoint], set[TopicPartition]]:
        """Where each of some partitions goes on, and which of them the group has committed nothing of yet.

        Raises:
          KafkaError: the broker does not answer.
        """
        points, begun = {}, set()
        for tp in partitions:
            point = self._last_checkpoint(tp)
            if point is None:
                begun.add(tp)
            else:
                points[tp] = point
        if begun:
            points |= self._first_checkpoints(begun)
        return points, begun

    def _last_checkpoint(self, tp: TopicPartition) -> Checkpoint | None:
        """What the group has committed, or one of our own making where that cannot be gone on from; None if nothing."""
        point, offset = self._input.committed(tp)
        if offset is None:
            return None
        end = self._input.end(tp)
        if end < offset:
            self._report(
                f"{name(tp)}: the group has committed offset {offset} and the topic ends at {end}: a new topic"
            )
            return self._rebuilt(tp, self._input.beginning(tp), None)
        if point is not None and point.partitions != self._input.count():
            return self._resized(tp, offset, point, self._newest_ms(self._input.places()))
        if point is None or point.window_fingerprint != self._spec.window_fingerprint:
            self._report(
                f"{name(tp)}: the last commit is of other windows; "
                f"goes on at offset {offset} with windows rebuilt from the topic"
            )
            return self._rebuilt(tp, offset, point.clock_ms if point else None)
        if point.changelog is not None and self._changelog is None:
            self._report(f"{name(tp)}: the last commit is of `recovery: changelog`; windows are rebuilt from the topic")
            return self._rebuilt(tp, offset, point.clock_ms)
        return point

    def _first_checkpoints(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, Checkpoint]:
        """Where partitions begin that the group has committed nothing of."""
        committed = [self._input.committed(place)[0] for place in self._input.places() if place not in partitions]
        for former in committed:
            if former is not None and former.partitions != self._input.count():
                newest = self._newest_ms(self._input.places())
                return {tp: self._resized(tp, self._input.beginning(tp), former, newest) for tp in partitions}
            if former is not None and former.whole_from_ms not in (None, UNKNOWN_MS):
                # A member that has kept its partitions has seen the change before the new ones were given to anybody.
                return {tp: self._resized(tp, self._input.beginning(tp), former, {}) for tp in partitions}
        if self._seeds is not None:
            return {tp: self._seeded(tp, self._input.first_live_offset(tp, self._start)) for tp in partitions}
        newest = self._newest_ms(partitions) if self._start == "latest" else {}
        time_ms = self._start if isinstance(self._start, int) else None
        return {
            tp: self._rebuilt(tp, self._input.first_live_offset(tp, self._start), newest.get(tp, time_ms))
            for tp in partitions
        }

    def _rebuilt(self, tp: TopicPartition, offset: int, time_ms: int | None) -> Checkpoint:
        """Goes on at `offset`, windows rebuilt from the events that one at `time_ms` can need; from all for None."""
        first = self._input.beginning(tp)
        replay_offset = first
        if time_ms is not None:
            replay_offset = self._input.offset_at(tp, max(time_ms - self._reach_ms, 0), default=offset)
        replay_offset = min(replay_offset, offset)
        is_cut = 0 < first == replay_offset
        return self._checkpoint(offset, replay_offset, UNKNOWN_MS if is_cut else None)

    def _resized(
        self, tp: TopicPartition, offset: int, point: Checkpoint, newest_ms: Mapping[TopicPartition, int]
    ) -> Checkpoint:
        """Keys have moved between partitions: only windows of events that are still to come are surely whole."""
        self._report(
            f"{name(tp)}: the topic has another number of partitions than it had, {self._input.count()}: "
            f"a cold start at offset {offset}; windows are warming until they are whole"
        )
        whole_from_ms = max(newest_ms.values(), default=0) + self._spec.grid.max_disorder + 1
        return self._checkpoint(offset, offset, max(whole_from_ms, point.whole_from_ms or 0))

    def _seeded(self, tp: TopicPartition, offset: int) -> Checkpoint:
        states = self._states(tp, 0)
        starts = [self._start_ms(state) for state in states.values()]
        replay_offset = offset
        if starts:
            time_ms = max(min(starts) - self._spec.grid.max_disorder, 0)
            replay_offset = min(self._input.offset_at(tp, time_ms, default=offset), offset)
        joins = len(self._whole_keys(tp, states)) == len(states)
        whole_from_ms = UNKNOWN_MS if not joins or (not states and self._input.beginning(tp) > 0) else None
        return replace(self._checkpoint(offset, replay_offset, whole_from_ms), seeded=bool(states))

    def _checkpoint(self, offset: int, replay_offset: int, whole_from_ms: int | None) -> Checkpoint:
        return Checkpoint(
            offset,
            replay_offset,
            None,
            (),
            self._spec.window_fingerprint,
            self._input.count(),
            whole_from_ms=whole_from_ms,
        )

    # --- from what ---

    def reading(self, tp: TopicPartition, checkpoint: Checkpoint) -> Reading:
        """What is to be read so that the partition is as it was at its checkpoint."""
        if checkpoint.changelog is not None and self._changelog is not None:
            return self._reading_of_rows(tp, checkpoint, self._changelog)
        first = self._input.beginning(tp)
        whole_from_ms = checkpoint.whole_from_ms
        if first > checkpoint.replay_offset:
            whole_from_ms = UNKNOWN_MS
            lost = f", and events up to it were not predicted: {first - checkpoint.offset} at most"
            self._report(
                f"{name(tp)}: retention has removed offsets {checkpoint.replay_offset} to {first}, which windows still "
                f"need: windows are warming until they are whole{lost if first > checkpoint.offset else ''}"
            )
        states = self._states(tp, checkpoint.replay_offset) if checkpoint.seeded else {}
        if checkpoint.seeded and not states:
            whole_from_ms = UNKNOWN_MS
            self._report(
                f"{name(tp)}: windows came from a dataset and are not all in the topic yet: "
                "give it again with --warm-from; until then they are warming"
            )
        refused: Collection[int] | None = checkpoint.refused
        if refused is None:
            refused = refused_offsets(self._spec, tp.partition, range(checkpoint.replay_offset, checkpoint.offset))
        partition = self._partition(
            name=name(tp),
            partitions=checkpoint.partitions,
            start_offset=max(checkpoint.replay_offset, first),
            live_from=max(checkpoint.offset, first),
            clock_ms=checkpoint.clock_ms,
            refused=frozenset(refused),
            whole_from_ms=whole_from_ms,
            keys=states,
            seeded=bool(states),
            whole_keys=self._whole_keys(tp, states),
            has_changelog=self._changelog is not None,
        )
        behind = partition.live_from - partition.next_offset
        self._report(f"{partition.name}: live from offset {partition.live_from}, {behind} before it to warm windows")
        return replaying(tp, partition)

    def _reading_of_rows(self, tp: TopicPartition, checkpoint: Checkpoint, changelog: Changelog) -> Reading:
        assert checkpoint.changelog is not None
        rows, place = changelog.reader(tp, checkpoint), changelog.place(tp)

        def finish() -> EventPartition[Any]:
            states = rows.states()
            self._report(f"{name(tp)}: live from offset {checkpoint.offset}, {len(states)} keys from the changelog")
            return self._partition(
                name=name(tp),
                partitions=checkpoint.partitions,
                start_offset=checkpoint.offset,
                live_from=checkpoint.offset,
                clock_ms=checkpoint.clock_ms,
                whole_from_ms=checkpoint.whole_from_ms,
                keys=states,
                whole_keys=self._whole_keys(tp, self._states(tp, 0)),
                has_changelog=True,
            )

        return Reading(place, self._input.beginning(place), checkpoint.changelog, rows.take, finish)

    # --- seeds ---

    def _states(self, tp: TopicPartition, position: int) -> dict[str, KeyState]:
        return {} if self._seeds is None else self._seeds.states(tp.partition, self._input.count(), position)

    def _start_ms(self, state: KeyState) -> int:
        """From when on a seeded key needs events from the topic."""
        assert state.grid.next is not None
        return self._grid.start_ms(state.grid.next)

    def _whole_keys(self, tp: TopicPartition, states: Mapping[str, KeyState]) -> frozenset[str]:
        """The seeded keys that the topic goes on with where the dataset ends.

        It must reach back to the key's first step that is not in the dataset, or into it where there is one event a
        step.
        """
        if not states:
            return frozenset()
        first_ms = self._input.first_ms(tp)
        if first_ms is None:
            return frozenset()
        slack_ms = self._spec.grid.step - 1 if self._spec.grid.regular else 0
        return frozenset(key for key, state in states.items() if first_ms <= self._start_ms(state) + slack_ms)

    def _newest_ms(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The greatest record time of each partition that holds a record."""
        with TopicAdmin(self._spec.kafka) as admin:
            found = {tp: admin.newest_ms(tp.topic, tp.partition) for tp in partitions}
        return {tp: time_ms for tp, time_ms in found.items() if time_ms is not None}
