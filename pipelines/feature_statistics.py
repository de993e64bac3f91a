"""The features in tensorflow-metadata's terms, which TFDV and Facets read: their Schema and their statistics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from pipelines.kernels.sketch import Sketch
from pipelines.profiles import sketch_of
from schemas.dataset import FeatureProfile, Moments, Statistics
from schemas.spec import Spec
from schemas.stream_spec import Feature

UNKNOWN_CATEGORY = "(unknown)"

_BUCKETS = 10


def features_text(spec: Spec) -> str:
    """The Schema of the features that events carry, in protobuf's text format."""
    schema = schema_pb2.Schema()
    for feature in _carried(spec):
        entry = schema.feature.add(name=feature.name, type=_type(feature))
        entry.value_count.min, entry.value_count.max = 0, 1
        entry.annotation.tag.append(feature.role)
        if feature.unit:
            entry.annotation.comment.append(f"unit: {feature.unit}")
        if feature.categorical:
            entry.string_domain.value.extend((*feature.categories, UNKNOWN_CATEGORY))
    text: str = text_format.MessageToString(schema)
    return text


def feature_statistics(spec: Spec, statistics: Statistics) -> bytes:
    """A serialised DatasetFeatureStatisticsList over all closed steps; an example is a step of a key."""
    found = statistics_pb2.DatasetFeatureStatisticsList()
    dataset = found.datasets.add(name=spec.stream.name)
    for feature in _carried(spec):
        profile = statistics.profiles.get(feature.name)
        if profile is None:
            continue
        dataset.num_examples = max(dataset.num_examples, profile.steps)
        entry = dataset.features.add()
        entry.path.step.append(feature.name)
        counts = statistics.sketches.get(feature.name)
        sketch = sketch_of(counts) if counts else Sketch.of(np.empty(0, np.float32))
        if feature.categorical:
            entry.type = statistics_pb2.FeatureNameStatistics.STRING
            _set_common(entry.string_stats.common_stats, profile)
            _set_categories(entry.string_stats, feature, sketch)
        else:
            kinds = {schema_pb2.FLOAT: "FLOAT", schema_pb2.INT: "INT"}
            entry.type = statistics_pb2.FeatureNameStatistics.Type.Value(kinds[_type(feature)])
            _set_common(entry.num_stats.common_stats, profile)
            if profile.moments is not None:
                _set_numbers(entry.num_stats, profile.moments, sketch)
    serialized: bytes = found.SerializeToString(deterministic=True)
    return serialized


def _type(feature: Feature) -> int:
    """Of the cells: a mean of whole numbers is none."""
    if feature.categorical:
        return int(schema_pb2.BYTES)
    whole = feature.aggregate == "count" or (feature.type == "integer" and feature.aggregate != "mean")
    return int(schema_pb2.INT if whole else schema_pb2.FLOAT)


def _carried(spec: Spec) -> Iterator[Feature]:
    return (feature for feature in spec.stream.features if feature.calendar is None)


def _set_common(common: statistics_pb2.CommonStatistics, profile: FeatureProfile) -> None:
    present = profile.steps - profile.missing
    common.num_missing, common.num_non_missing, common.tot_num_values = profile.missing, present, present
    if present:
        common.min_num_values = common.max_num_values = 1
        common.avg_num_values = 1.0


def _set_numbers(numbers: statistics_pb2.NumericStatistics, moments: Moments, sketch: Sketch) -> None:
    numbers.mean, numbers.std_dev, numbers.min, numbers.max = moments.mean, moments.std, moments.min, moments.max
    numbers.num_zeros = int(sketch.count[sketch.bucket == 0].sum())
    levels = np.linspace(0, 1, _BUCKETS + 1)
    quantiles = np.clip(sketch.quantiles(levels), moments.min, moments.max)
    quantiles[0], quantiles[-1] = moments.min, moments.max
    numbers.median = float(np.clip(sketch.quantiles(np.array([0.5])), moments.min, moments.max)[0])
    deciles = numbers.histograms.add(type=statistics_pb2.Histogram.QUANTILES)
    for low, high in pairwise(quantiles):
        deciles.buckets.add(low_value=low, high_value=high, sample_count=sketch.size / _BUCKETS)
    standard = numbers.histograms.add(type=statistics_pb2.Histogram.STANDARD)
    values = np.clip(sketch.middle(sketch.bucket), moments.min, moments.max)
    counts, edges = np.histogram(values, _BUCKETS, range=(moments.min, moments.max), weights=sketch.count)
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        standard.buckets.add(low_value=low, high_value=high, sample_count=count)


def _set_categories(texts: statistics_pb2.StringStatistics, feature: Feature, sketch: Sketch) -> None:
    names = [*feature.categories, UNKNOWN_CATEGORY]
    index = sketch.middle(sketch.bucket).astype(int)
    frequency = {names[at]: int(count) for at, count in zip(index, sketch.count, strict=True)}
    ranked = sorted(frequency.items(), key=lambda item: (-item[1], item[0]))
    texts.unique = len(ranked)
    if ranked:
        texts.avg_length = sum(count * len(name) for name, count in ranked) / sketch.size
    for rank, (name, count) in enumerate(ranked):
        texts.top_values.add(value=name, frequency=count)
        texts.rank_histogram.buckets.add(low_rank=rank, high_rank=rank, label=name, sample_count=count)
