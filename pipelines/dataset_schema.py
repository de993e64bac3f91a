"""`schema.pbtxt`: tensorflow-metadata's Schema of one record of the block layout."""

from __future__ import annotations

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from schemas.dataset import BLOCK_FIRST_STEP, BLOCK_KEY, BLOCK_OBSERVED, BLOCK_ORIGINS, BLOCK_VALUES

_FIELDS = (
    (BLOCK_KEY, schema_pb2.BYTES, True, "The key, UTF-8."),
    (BLOCK_FIRST_STEP, schema_pb2.INT, True, "Number of the first row's step."),
    (BLOCK_VALUES, schema_pb2.BYTES, True, "float32 little-endian (row, feature), NaN where masked."),
    (BLOCK_OBSERVED, schema_pb2.BYTES, False, "Bits (row, feature), least significant first; all set where left out."),
    (BLOCK_ORIGINS, schema_pb2.BYTES, False, "Bits (candidate,), least significant first; all set where left out."),
)


def schema_text() -> str:
    """The schema in protobuf's text format."""
    schema = schema_pb2.Schema()
    for name, kind, required, description in _FIELDS:
        feature = schema.feature.add(name=name, type=kind)
        feature.value_count.min = feature.value_count.max = 1
        feature.presence.min_fraction = 1.0 if required else 0.0
        feature.annotation.comment.append(description)
    text: str = text_format.MessageToString(schema)
    return text
