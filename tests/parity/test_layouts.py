"""Both layouts of a dataset hold the same windows, bit for bit, and the same in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from models.reader import windows
from pipelines.ingest import ingest
from schemas.dataset import DatasetFolder
from schemas.spec import Spec
from tests.specs import tiny_spec

FEATURES: list[dict[str, Any]] = [
    {"name": "size", "role": "static"},
    {"name": "load", "role": "target"},
    {"name": "price", "role": "future", "lead": 4, "fill": "none"},
    {"name": "hour", "role": "future", "calendar": "time_of_day"},
    {"name": "heat", "role": "target", "fill": "zero"},
]
CLASSES: list[dict[str, Any]] = [
    {"name": "size", "role": "label", "type": "category", "categories": ["s", "m"]},
    {"name": "load", "role": "past"},
    {"name": "price", "role": "future", "lead": 4, "fill": "none"},
    {"name": "heat", "role": "static"},
]


def layout_spec(layout: str, features: list[dict[str, Any]] = FEATURES) -> Spec:
    return tiny_spec(
        stream={"features": features},
        window={"past": 6, "horizon": 3, "stride": 2, "min_observed": 4},
        split={"by": "fraction", "train": 0.6, "test": 0.2},
        dataset={"layout": layout, "shards": 2, "block_windows": 17},
    )


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> str:
    draw = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("layouts") / "events.csv"
    with path.open("w") as file:
        file.write("key,time,size,load,price,heat\n")
        for key in ("a", "é", "c"):
            # Around 2^35 ms, where the varint of a window's origin grows.
            for time_ms in range(2**35 - 3_000, 2**35 + 3_000, 10):
                cells = ["" if draw.random() < 0.2 else f"{draw.normal():.4f}" for _ in range(4)]
                file.write(f"{key},{time_ms},{','.join(cells)}\n")
    return str(path)


def with_labels(events: str, path: Path) -> str:
    """The events with a class in place of their size: most have none, and some one that the spec has not."""
    draw = np.random.default_rng(6)
    lines = Path(events).read_text().splitlines()
    table = [line.split(",") for line in lines[1:]]
    labels = draw.choice(["", "s", "m", "l"], len(table), p=[0.4, 0.25, 0.25, 0.1])
    rows = [",".join([*row[:2], label, *row[3:]]) for row, label in zip(table, labels, strict=True)]
    path.write_text("\n".join([lines[0], *rows]) + "\n")
    return str(path)


def delivered(folder: DatasetFolder, split: str, **options: Any) -> dict[tuple[str, int], dict[str, bytes]]:
    found = {}
    for batch in windows(folder, split, batch_size=32, **options).as_numpy_iterator():
        for row, place in enumerate(zip(batch["key"], batch["origin_ms"], strict=True)):
            assert place not in found
            found[place] = {name: np.asarray(part[row]).tobytes() for name, part in batch.items()}
    return found


def dataset(folder: Path, events: str, spec: Spec) -> DatasetFolder:
    ingest(spec, inputs=[events], output=str(folder / spec.dataset.layout))
    return DatasetFolder(folder / spec.dataset.layout)


@pytest.mark.parametrize("features", [FEATURES, FEATURES[1:2], CLASSES], ids=["all kinds", "one target", "a label"])
def test_both_layouts_deliver_the_same(features: list[dict[str, Any]], events: str, tmp_path: Path) -> None:
    if features is CLASSES:
        events = with_labels(events, tmp_path / "labelled.csv")
    blocks, plain = (dataset(tmp_path, events, layout_spec(layout, features)) for layout in ("block", "window"))
    assert (blocks.manifest.layout, plain.manifest.layout) == ("block", "window")
    for split in ("train", "validation", "test"):
        expected = delivered(blocks, split)
        assert len(expected) > 30
        assert delivered(plain, split) == expected
        assert delivered(plain, split, shuffle_seed=3) == expected
        assert plain.split(split).windows == len(expected)
    for folder in (blocks, plain):
        sample = delivered(folder, "train", shuffle_seed=3, sample=70)
        assert len(sample) == 64
        assert sample.items() <= delivered(blocks, "train").items()
    for name in ("stats.json", "features.pbtxt"):
        assert (plain.path / name).read_bytes() == (blocks.path / name).read_bytes()
    element = [windows(folder, "train", batch_size=32).element_spec for folder in (blocks, plain)]
    assert element[0] == element[1]


def test_a_record_is_a_plain_example_of_one_window(events: str, tmp_path: Path) -> None:
    plain = dataset(tmp_path, events, layout_spec("window"))
    paths = [str(path) for path in plain.shard_paths("test")]
    records = list(tf.data.TFRecordDataset(paths).as_numpy_iterator())
    assert len(records) == plain.split("test").windows
    example = tf.train.Example.FromString(records[0])
    assert example.SerializeToString(deterministic=True) == records[0]
    assert len(example.features.feature["past_values"].float_list.value) == 6 * 5
    schema = text_format.Parse((plain.path / "schema.pbtxt").read_text(), schema_pb2.Schema())
    assert {feature.name for feature in schema.feature} == set(example.features.feature)
    for feature in schema.feature:
        kind = {schema_pb2.FLOAT: "float_list", schema_pb2.INT: "int64_list", schema_pb2.BYTES: "bytes_list"}
        values = getattr(example.features.feature[feature.name], kind[feature.type]).value
        assert len(values) == np.prod([dim.size for dim in feature.shape.dim], dtype=int)
