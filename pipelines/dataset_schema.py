"""`schema.pbtxt`: tensorflow-metadata's Schema of one record."""

from __future__ import annotations

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from schemas.dataset import BLOCK_FIRST_STEP, BLOCK_KEY, BLOCK_OBSERVED, BLOCK_ORIGINS, BLOCK_VALUES
from schemas.spec import Spec

_FIELDS = (
    (BLOCK_KEY, schema_pb2.BYTES, True, "The key, UTF-8."),
    (BLOCK_FIRST_STEP, schema_pb2.INT, True, "Number of the first row's step."),
    (BLOCK_VALUES, schema_pb2.BYTES, True, "float32 little-endian (row, feature), NaN where masked."),
    (BLOCK_OBSERVED, schema_pb2.BYTES, False, "Bits (row, feature), least significant first; all set where left out."),
    (BLOCK_ORIGINS, schema_pb2.BYTES, False, "Bits (candidate,), least significant first; all set where left out."),
)


def schema_text(spec: Spec) -> str:
    """The schema of the spec's layout in protobuf's text format."""
    schema = _block_schema() if spec.dataset.layout == "block" else _window_schema(spec)
    text: str = text_format.MessageToString(schema)
    return text


def _window_schema(spec: Spec) -> schema_pb2.Schema:
    roles = [feature.role for feature in spec.stream.features]
    past, horizon = spec.window.past, spec.window.horizon
    shapes = {
        "past_values": (past, len(spec.stream.inputs)),
        "past_observed": (past, len(spec.stream.inputs)),
        "target_values": (horizon, roles.count("target")),
        "target_observed": (horizon, roles.count("target")),
        "future_values": (horizon, roles.count("future")),
        "static_values": (roles.count("static"),),
    }
    schema = schema_pb2.Schema()
    for name, shape in shapes.items():
        if 0 not in shape:
            feature = schema.feature.add(name=name, type=schema_pb2.FLOAT if "values" in name else schema_pb2.INT)
            feature.presence.min_fraction = 1.0
            for size in shape:
                feature.shape.dim.add(size=size)
    scalars = [("key", schema_pb2.BYTES), ("origin_ms", schema_pb2.INT)]
    if spec.stream.label is not None:
        scalars.append(("label", schema_pb2.INT))
    for name, kind in scalars:
        feature = schema.feature.add(name=name, type=kind)
        feature.presence.min_fraction = 1.0
        feature.shape.SetInParent()
    return schema


def _block_schema() -> schema_pb2.Schema:
    schema = schema_pb2.Schema()
    for name, kind, required, description in _FIELDS:
        feature = schema.feature.add(name=name, type=kind)
        feature.value_count.min = feature.value_count.max = 1
        feature.presence.min_fraction = 1.0 if required else 0.0
        feature.annotation.comment.append(description)
    return schema
