"""The record encoders against TensorFlow's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.example.example_pb2 import Example

from pipelines.example_encoder import encode_example, encode_examples
from pipelines.tfrecord import frame, frame_table

INT64 = st.integers(-(2**63), 2**63 - 1)
BYTES = st.one_of(st.binary(max_size=300), st.integers(0, 20_000).map(bytes))


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(st.dictionaries(NAMES, st.one_of(INT64, BYTES), min_size=1))
def test_an_example_has_the_bytes_of_the_real_message(features: dict[str, int | bytes]) -> None:
    example = Example()
    for name, value in features.items():
        if isinstance(value, int):
            example.features.feature[name].int64_list.value.append(value)
        else:
            example.features.feature[name].bytes_list.value.append(value)
    assert encode_example(features) == example.SerializeToString(deterministic=True)


def test_tensorflow_reads_the_frames(tmp_path: Path) -> None:
    records = [b"", b"a", bytes(range(256)) * 1000]
    path = tmp_path / "records.tfrecord"
    path.write_bytes(b"".join(map(frame, records)))
    assert list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator()) == records


FLOAT32 = st.floats(width=32)
COUNTS = st.shared(st.integers(1, 6), key="count")


def tables(values: st.SearchStrategy[Any], dtype: Any) -> st.SearchStrategy[Any]:
    return st.tuples(COUNTS, st.integers(1, 40)).flatmap(
        lambda shape: st.lists(values, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]).map(
            lambda flat: np.array(flat, dtype).reshape(shape)
        )
    )


COLUMNS = st.one_of(
    tables(FLOAT32, np.float32),
    tables(st.booleans(), np.bool_),
    COUNTS.flatmap(lambda count: st.lists(INT64, min_size=count, max_size=count)).map(lambda v: np.array(v, np.int64)),
)


@given(COLUMNS, st.dictionaries(NAMES.filter(lambda name: name != "first"), st.one_of(COLUMNS, BYTES), max_size=5))
def test_many_examples_have_the_bytes_of_the_real_messages(first: Any, others: dict[str, Any]) -> None:
    columns = {"first": first} | others
    found: list[bytes] = []
    for rows, table in encode_examples(columns):
        assert rows.start == len(found)
        found += [row.tobytes() for row in table]
    assert len(found) == len(first)
    for index, record in enumerate(found):
        example = Example()
        for name, column in columns.items():
            feature = example.features.feature[name]
            if isinstance(column, bytes):
                feature.bytes_list.value.append(column)
            elif column.dtype == np.float32:
                feature.float_list.value.extend(column[index])
            else:
                feature.int64_list.value.extend(map(int, np.atleast_1d(column[index])))
        assert record == example.SerializeToString(deterministic=True)


def test_a_table_is_framed_as_its_records_are() -> None:
    table = np.arange(60, dtype=np.uint8).reshape(4, 15)
    assert frame_table(table).tobytes() == b"".join(frame(row.tobytes()) for row in table)
