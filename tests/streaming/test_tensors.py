import contextlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from streaming.serving_protos import DataType, TensorProto
from streaming.tensors import MAX_EXPANDED_BYTES, decode_tensor, encode_tensor, serialize_tensor

NUMERIC = [
    "float32",
    "float64",
    "float16",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "complex64",
    "complex128",
]
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
arrays = st.sampled_from(NUMERIC).flatmap(lambda name: hnp.arrays(np.dtype(name), shapes))


def same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@given(arrays, st.booleans())
@example(np.zeros((0, 3), np.float32), False)
def test_an_array_comes_back(array, as_content):
    proto = encode_tensor(array, as_content=as_content)
    assert same(decode_tensor(proto), array)
    assert proto.SerializeToString(deterministic=True) == serialize_tensor(array, as_content=as_content)


@given(hnp.arrays(np.float32, shapes))
def test_typed_field_holds_the_values(array):
    proto = encode_tensor(array)
    assert proto.tensor_content == b""
    assert np.array_equal(np.array(proto.float_val, np.float32), array.ravel(), equal_nan=True)
    assert [dim.size for dim in proto.tensor_shape.dim] == list(array.shape)


@given(hnp.arrays(np.float32, shapes).map(lambda a: a.astype(ml_dtypes.bfloat16)), st.booleans())
def test_bfloat16_comes_back(array, as_content):
    assert same(decode_tensor(encode_tensor(array, as_content=as_content)), array)


@given(st.lists(st.binary(max_size=8), max_size=6))
def test_strings_come_back(values):
    array = np.array([*values, None], dtype=object)[:-1]
    assert decode_tensor(encode_tensor(array)).tolist() == values


def test_text_is_sent_as_utf8():
    assert decode_tensor(encode_tensor(np.array(["zażółć", "b"]))).tolist() == ["zażółć".encode(), b"b"]


def test_strings_in_tensor_content():
    long = b"x" * 200
    content = bytes([1, 0, 0xC8, 0x01]) + b"a" + long
    proto = TensorProto(dtype=DataType.DT_STRING, tensor_content=content)
    proto.tensor_shape.dim.add(size=3)
    assert decode_tensor(proto).tolist() == [b"a", b"", long]
    proto.tensor_content = content[:-1]
    with pytest.raises(ValueError, match="tensor_content"):
        decode_tensor(proto)


def test_arrays_of_any_layout():
    array = np.arange(24, dtype=">f4").reshape(2, 3, 4)[:, ::2].transpose(2, 0, 1)
    for as_content in (False, True):
        decoded = decode_tensor(encode_tensor(array, as_content=as_content))
        assert decoded.dtype == np.float32
        assert np.array_equal(decoded, array)


FITTED = [
    ([2.0], 3, [2.0, 2.0, 2.0]),
    ([1.0, 2.0], 4, [1.0, 2.0, 2.0, 2.0]),
    ([], 2, [0.0, 0.0]),
    ([1.0, 2.0, 3.0], 2, [1.0, 2.0]),
]


@pytest.mark.parametrize(("values", "size", "expected"), FITTED)
@pytest.mark.parametrize(
    ("dtype", "field"),
    [(DataType.DT_FLOAT, "float_val"), (DataType.DT_DOUBLE, "double_val"), (DataType.DT_INT64, "int64_val")],
)
def test_missing_values_repeat_the_last_and_surplus_is_ignored(values, size, expected, dtype, field):
    proto = TensorProto(dtype=dtype)
    proto.tensor_shape.dim.add(size=size)
    getattr(proto, field).extend([int(v) if field == "int64_val" else v for v in values])
    assert decode_tensor(proto).tolist() == expected


def test_values_are_found_beside_other_fields():
    proto = encode_tensor(np.array([1.5, 2.5], np.float32))
    proto.double_val.extend([3.0, 4.0])
    proto.int_val.append(7)
    assert decode_tensor(proto).tolist() == [1.5, 2.5]


WRONG = {
    "negative": TensorProto(dtype=1, tensor_shape={"dim": [{"size": -1}]}),
    "unknown rank": TensorProto(dtype=1, tensor_shape={"unknown_rank": True}),
    "DataType 0": TensorProto(),
    "DataType 9999": TensorProto.FromString(b"\x08\x8f\x4e"),
    "tensor_content": TensorProto(dtype=1, tensor_shape={"dim": [{"size": 2}]}, tensor_content=b"123456"),
    "huge": TensorProto(dtype=1, tensor_shape={"dim": [{"size": 2**31}, {"size": 2**31}]}, float_val=[1.0]),
    "too many dims": TensorProto(dtype=1, tensor_shape={"dim": [{"size": 1}] * 100}, float_val=[1.0]),
    "empty but huge": TensorProto(dtype=1, tensor_shape={"dim": [{"size": 2**62}, {"size": 2**62}, {"size": 0}]}),
}


@pytest.mark.parametrize("proto", WRONG.values(), ids=WRONG.keys())
def test_what_is_no_tensor_is_a_value_error(proto):
    with pytest.raises(ValueError, match=r"expected|dimension|array"):
        decode_tensor(proto)


def test_expansion_is_bounded():
    proto = TensorProto(dtype=1, tensor_shape={"dim": [{"size": MAX_EXPANDED_BYTES // 4 + 1}]}, float_val=[1.0])
    with pytest.raises(ValueError, match="too many to fill in"):
        decode_tensor(proto)


@given(st.binary(max_size=64))
def test_any_bytes_give_an_array_or_a_value_error(data):
    try:
        proto = TensorProto.FromString(data)
    except Exception:
        return
    with contextlib.suppress(ValueError):
        decode_tensor(proto)


def test_objects_that_are_no_strings_are_refused():
    with pytest.raises(TypeError, match="float"):
        encode_tensor(np.array([1.0], dtype=object))
