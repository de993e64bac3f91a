"""The record encoders against TensorFlow's own."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.example.example_pb2 import Example

from pipelines.example_encoder import encode_example
from pipelines.tfrecord import frame

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
