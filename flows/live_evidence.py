"""What live predictions have shown of two versions of a model: the accuracy topic, read and compared.

An error is measured in those of persistence: of each target, by the mean error that persistence had in the same windows
and scored steps; a window's loss is the mean over its observed cells. The losses of all keys at an origin are averaged,
which leaves one series in time, with one number for each origin.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from numpy.typing import NDArray

from flows.verify import read_topic
from pipelines.kernels.paired import Comparison, Losses, compare, compare_apart
from schemas.accuracy import ScoredPrediction, read_accuracy
from schemas.errors import BrokerError
from schemas.probation_spec import Probation
from schemas.spec import Spec
from streaming.topics import broker_errors, connect

LOOK_BACK = 4
"""For so many times as many windows as are wanted each partition is read back, to find the older version's own."""

Place = tuple[int, str]
"""Origin and key: the order of time."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What there is by now.

    `windows` are scored ones, of the older version's shadow where `paired`, else of the new version; `enough` says
    whether they are as many as the rule wants. In `broken` of them there is no score of the new version, which forecast
    no number. `comparison` is None where there is nothing to compare.
    """

    paired: bool
    windows: int
    enough: bool
    broken: int = 0
    comparison: Comparison | None = None


def accuracy_ends(spec: Spec) -> dict[str, int]:
    """Where the accuracy topic ends now, by partition.

    Raises:
      BrokerError: it does not exist, or cannot be read.
    """
    topic = spec.topics.accuracy.name
    consumer = connect(KafkaConsumer, spec.kafka, enable_auto_commit=False, allow_auto_create_topics=False)
    try:
        with broker_errors(topic):
            numbers = consumer.partitions_for_topic(topic)
            if not numbers:
                raise BrokerError(f"{topic}: expected the topic of `tidegauge accuracy`, got none of this name")
            ends = consumer.end_offsets([TopicPartition(topic, number) for number in sorted(numbers)])
            return {str(tp.partition): end for tp, end in ends.items()}
    finally:
        consumer.close(timeout_ms=1_000)


def gather(spec: Spec, rule: Probation, *, new: int, old: int, since: Mapping[str, int]) -> Evidence:
    """Compares two versions by the first `rule.windows` scored windows.

    Args:
      spec: the stream.
      rule: how.
      new: the version that answers.
      old: the version before it. With `serving.shadow` it is compared on the windows that it predicted beside the new
        one, else on those that it answered itself, the newest ones.
      since: where the new version's scored predictions begin in the accuracy topic, by partition.
    Raises:
      BrokerError: the topic does not exist, or cannot be read.
    """
    paired = spec.serving.shadow is not None
    back = 0 if paired else LOOK_BACK * rule.windows
    starts = {int(partition): max(0, offset - back) for partition, offset in since.items()}
    answers: dict[int, dict[Place, ScoredPrediction]] = {new: {}, old: {}}
    shadows: dict[Place, ScoredPrediction] = {}
    for record in read_topic(spec, spec.topics.accuracy.name, starts):
        try:
            scored = read_accuracy(record.value)
        except ValueError:  # somebody else's record
            continue
        if scored.model.version not in answers or scored.steps != spec.scored_steps:
            continue
        if not np.isfinite(scored.actual).any():
            continue
        place = (scored.origin_ms, scored.key)
        if scored.role in ("champion", "canary"):
            answers[scored.model.version].setdefault(place, scored)
        elif scored.role == "shadow" and scored.model.version == old:
            shadows.setdefault(place, scored)
    overlap = math.ceil(max(spec.scored_steps) / spec.window.stride)
    mine, beside = answers[new], shadows if paired else answers[new]
    places, enough = _first(sorted(beside), rule)
    both = [place for place in places if place in mine]
    ones = [mine[place] for place in both]
    evidence = Evidence(paired, len(places), enough, broken=len(places) - len(both))
    if not ones:
        return evidence
    if paired:
        scales = _scales(ones, rule.metric)
        each = (_losses(found, "forecast", scales, rule.metric) for found in (ones, [shadows[place] for place in both]))
        series = (_by_origin(ones, losses) for losses in each)
        return replace(evidence, comparison=compare(*series, overlap=overlap, tolerance=rule.tolerance))
    theirs = [answers[old][place] for place in sorted(answers[old])][-max(rule.windows, len(ones)) :]
    if not theirs:
        return evidence
    apart = (_with_yardstick(found, rule.metric) for found in (ones, theirs))
    return replace(evidence, comparison=compare_apart(*apart, overlap=overlap, tolerance=rule.tolerance))


def _first(places: Sequence[Place], rule: Probation) -> tuple[Sequence[Place], bool]:
    """The first windows that it is decided on, and whether they are enough; `places` are in order."""
    origins = sorted({origin_ms for origin_ms, _ in places})
    if len(places) < rule.windows or len(origins) < rule.origins:
        return places, False
    end = bisect_right(places, origins[rule.origins - 1], key=lambda place: place[0])
    return places[: max(rule.windows, end)], True


def _with_yardstick(found: Sequence[ScoredPrediction], metric: str) -> tuple[Losses, Losses]:
    """The losses of a version and of persistence by origin."""
    scales = _scales(found, metric)
    forecast, persistence = (_losses(found, name, scales, metric) for name in ("forecast", "persistence"))
    return _by_origin(found, forecast), _by_origin(found, persistence)


def _stacked(found: Sequence[ScoredPrediction], name: str) -> NDArray[np.float64]:
    """An array of all predictions, float64 (prediction, step, target)."""
    return np.stack([getattr(scored, name) for scored in found]).astype(np.float64)


def _errors(found: Sequence[ScoredPrediction], name: str, metric: str) -> NDArray[np.float64]:
    """Errors of the forecast or of persistence, float64 (prediction, step, target), NaN where nothing was observed."""
    errors = np.abs(_stacked(found, name) - _stacked(found, "actual"))
    return errors if metric == "mae" else errors**2


def _scales(found: Sequence[ScoredPrediction], metric: str) -> NDArray[np.float64]:
    """The mean error of persistence, float64 (target,); 1 where it had none."""
    errors = _errors(found, "persistence", metric)
    seen = np.isfinite(errors)
    means = np.where(seen, errors, 0).sum(axis=(0, 1)) / np.maximum(seen.sum(axis=(0, 1)), 1)
    return np.where(means > 0, means, 1.0)


def _losses(found: Sequence[ScoredPrediction], name: str, scales: NDArray[np.float64], metric: str) -> Losses:
    """The mean scaled error of each prediction; each has an observed cell."""
    return np.asarray(np.nanmean(_errors(found, name, metric) / scales, axis=(1, 2)))


def _by_origin(found: Iterable[ScoredPrediction], losses: Losses) -> Losses:
    """The mean over the keys of each origin, in the order of time."""
    _, index = np.unique([scored.origin_ms for scored in found], return_inverse=True)
    return np.asarray(np.bincount(index, losses) / np.bincount(index))
