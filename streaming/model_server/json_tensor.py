"""JSON of the REST interface: requests to tensors and tf.Examples, results to text, by TensorFlow Serving's rules."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson

from streaming.model_server.signature import dtype_name
from streaming.model_server.status import Code, StatusError, invalid_argument
from streaming.serving_protos import ClassificationResult, DataType, Example, RegressionResult
from streaming.tensors import DTYPES, Array

_BASE64_KEY = "b64"
_BYTES_SUFFIX = "_bytes"
_SHOWN_CHARACTERS = 256
_MAX_DIMENSIONS = 64
_JSON_TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
_FLOATS = (DataType.DT_FLOAT, DataType.DT_DOUBLE)
_PLAIN_RANGE = (1e-4, 1e6)
_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_decoder = json.JSONDecoder()


def parse_object(body: bytes) -> dict[str, Any]:
    """Parses the JSON object at the start of a body; what follows it is ignored. `NaN` and `Infinity` are numbers.

    Raises:
      StatusError: INVALID_ARGUMENT.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = _parse_lenient(body)
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {_shown(document)} Is not object")
    return document


def signature_name(document: Mapping[str, Any]) -> str:
    """The signature that a request names, or "".

    Raises:
      StatusError: INVALID_ARGUMENT if it is no string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def predict_inputs(document: Mapping[str, Any], dtypes: Mapping[str, int]) -> tuple[dict[str, Array], bool]:
    """The tensors of a predict request.

    Args:
      document: the request.
      dtypes: of the signature's inputs, by alias.

    Returns:
      The tensors by alias, and whether they came in rows (`instances`) instead of columns (`inputs`).

    Raises:
      StatusError: INVALID_ARGUMENT; UNIMPLEMENTED for a dtype that JSON has no form for.
    """
    if "instances" in document and "inputs" in document:
        raise invalid_argument(
            f"JSON Value: {_shown(document)} Not formatted correctly expecting only one of 'inputs' or 'instances' "
            "keys to exist "
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid_argument(f"JSON Value: {_shown(document)} Excepting 'instances' to be an list/array")
        if not instances:
            raise invalid_argument(f"JSON Value: {_shown(document)} No values in 'instances' array")
        return _inputs_of_rows(instances, dtypes), True
    if "inputs" in document:
        return _inputs_of_columns(document["inputs"], dtypes), False
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def request_examples(document: Mapping[str, Any], method: str) -> tuple[Example | None, list[Example]]:
    """The context, if any, and the examples of a classify or regress request.

    Raises:
      StatusError: INVALID_ARGUMENT.
    """
    context = _example(document["context"]) if "context" in document else None
    if "examples" not in document:
        raise invalid_argument(
            f"JSON Value: {_shown(document)} When method is {method}, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid_argument(f"JSON Value: {_shown(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid_argument(f"JSON Value: {_shown(document)} 'examples' value is an empty array")
    return context, [_example(example) for example in examples]


def predictions_text(outputs: Mapping[str, Array]) -> str:
    """The response to `instances`: a list over the rows, of objects if there are several outputs.

    Raises:
      StatusError: INVALID_ARGUMENT if the outputs have not the same number of rows.
    """
    if any(array.ndim == 0 for array in outputs.values()):
        alias = next(alias for alias, array in outputs.items() if array.ndim == 0)
        raise invalid_argument(
            f'Tensor name: {alias} has no shape information: the row format needs a batch dimension; use "inputs"'
        )
    sizes = {alias: len(array) for alias, array in outputs.items()}
    if len(set(sizes.values())) > 1:
        raise invalid_argument(f"Tensors have inconsistent batch sizes: {sizes}")
    if len(outputs) == 1:
        ((alias, array),) = outputs.items()
        return f'{{"predictions": {_text(array, alias)}}}'
    names = {alias: orjson.dumps(alias).decode() for alias in outputs}
    rows = (
        "{" + ", ".join(f"{names[alias]}: {_text(array[row], alias)}" for alias, array in outputs.items()) + "}"
        for row in range(next(iter(sizes.values())))
    )
    return f'{{"predictions": [{", ".join(rows)}]}}'


def outputs_text(outputs: Mapping[str, Array]) -> str:
    """The response to `inputs`: the tensor, or an object of tensors if there are several."""
    if len(outputs) == 1:
        ((alias, array),) = outputs.items()
        return f'{{"outputs": {_text(array, alias)}}}'
    members = (f"{orjson.dumps(alias).decode()}: {_text(array, alias)}" for alias, array in outputs.items())
    return f'{{"outputs": {{{", ".join(members)}}}}}'


def classifications_text(result: ClassificationResult) -> str:
    """The response to a classify request: for each example, pairs of label and score."""
    rows = (
        "["
        + ", ".join(
            f"[{orjson.dumps(entry.label).decode()}, {_decimal(np.float32(entry.score))}]"
            for entry in classification.classes
        )
        + "]"
        for classification in result.classifications
    )
    return f'{{"results": [{", ".join(rows)}]}}'


def regressions_text(result: RegressionResult) -> str:
    """The response to a regress request: one number for each example."""
    values = (_decimal(np.float32(regression.value)) for regression in result.regressions)
    return f'{{"results": [{", ".join(values)}]}}'


def _parse_lenient(body: bytes) -> Any:
    try:
        document = _decoder.raw_decode(body.decode().lstrip(" \t\r\n"))[0]
        json.dumps(document, ensure_ascii=False).encode()
        return document
    except UnicodeEncodeError as error:
        raise invalid_argument("JSON Parse error: The surrogate pair in string is invalid.") from error
    except UnicodeDecodeError as error:
        raise invalid_argument(f"JSON Parse error: Invalid encoding in string. at offset: {error.start}") from error
    except json.JSONDecodeError as error:
        empty = "The document is empty" if not body.strip() else error.msg
        raise invalid_argument(f"JSON Parse error: {empty} at offset: {error.pos}") from error
    except RecursionError as error:
        raise invalid_argument("JSON Parse error: The document is nested too deeply") from error
    except ValueError as error:
        raise invalid_argument("JSON Parse error: A number has too many digits") from error


def _inputs_of_rows(instances: Sequence[Any], dtypes: Mapping[str, int]) -> dict[str, Array]:
    if not _is_plain_object(instances[0]):
        if len(dtypes) != 1:
            raise invalid_argument(
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
                "tensorinfo_map"
            )
        for place, instance in enumerate(instances):
            if _is_plain_object(instance):
                raise invalid_argument(f"Expecting value/list but got object at item {place} of input list")
        ((alias, dtype),) = dtypes.items()
        return {alias: _tensor(instances, dtype)}
    for place, instance in enumerate(instances):
        if not _is_plain_object(instance):
            raise invalid_argument(f"Expecting object but got list at item {place} of input list")
        if instance.keys() != dtypes.keys():
            raise invalid_argument(
                f"Failed to process element: {place} of 'instances' list. JSON object: {_shown(instance)} keys must be "
                f"equal to: {','.join(sorted(dtypes))}"
            )
    return {alias: _tensor([instance[alias] for instance in instances], dtype) for alias, dtype in dtypes.items()}


def _inputs_of_columns(value: Any, dtypes: Mapping[str, int]) -> dict[str, Array]:
    if not _is_plain_object(value):
        if len(dtypes) != 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        ((alias, dtype),) = dtypes.items()
        return {alias: _tensor(value, dtype)}
    for alias in dtypes:
        if alias not in value:
            raise invalid_argument(f"Missing named input: {alias} in 'inputs' object.")
    return {alias: _tensor(value[alias], dtype) for alias, dtype in dtypes.items()}


def _is_plain_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(_BASE64_KEY), str)


def _tensor(value: Any, dtype: int) -> Array:
    """Nested lists, all of one shape, as an array.

    Raises:
      StatusError: INVALID_ARGUMENT for ragged lists or values of another type, UNIMPLEMENTED for the dtype.
    """
    shape: list[int] = []
    level: list[Any] = [value]
    while level and all(type(item) is list for item in level):
        sizes = set(map(len, level))
        if len(sizes) > 1:
            expected = len(level[0])
            actual = next(size for size in map(len, level) if size != expected)
            raise invalid_argument(f"Expecting tensor size: {expected} but got: {actual}")
        shape.append(len(level[0]))
        level = list(chain.from_iterable(level))
    for item in level:
        if type(item) is list:
            raise invalid_argument(
                f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}: "
                "lists and values are mixed"
            )
    if len(shape) > _MAX_DIMENSIONS:
        raise invalid_argument(f"Expecting at most {_MAX_DIMENSIONS} dimensions but got: {len(shape)}")
    return _values(level, dtype).reshape(shape)


def _values(values: list[Any], dtype: int) -> Array:
    if dtype == DataType.DT_STRING:
        strings = np.empty(len(values), dtype=object)
        strings[:] = [_string(value) for value in values]
        return strings
    if dtype in _FLOATS:
        allowed: tuple[type, ...] = (int, float)
    elif dtype == DataType.DT_BOOL:
        allowed = (bool,)
    elif dtype in DTYPES and DTYPES[dtype].kind in "iu":
        allowed = (int,)
    else:
        raise StatusError(Code.UNIMPLEMENTED, f"Conversion of JSON values to type: {dtype_name(dtype)}")
    if not set(map(type, values)) <= set(allowed):
        wrong = next(value for value in values if type(value) not in allowed)
        raise _type_error(wrong, dtype)
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype=DTYPES[dtype])
    except OverflowError as error:
        if dtype in _FLOATS:
            raise invalid_argument(
                f"Cannot convert JSON value to {dtype_name(dtype)} without loss of precision."
            ) from error
        limits = np.iinfo(DTYPES[dtype])
        wrong = next(value for value in values if not limits.min <= value <= limits.max)
        raise _type_error(wrong, dtype) from error
    if dtype == DataType.DT_FLOAT and values:
        _check_lossless(values, array)
    return array


def _check_lossless(values: Sequence[int | float], array: Array) -> None:
    """Refuses numbers outside float32, and integers that it cannot hold."""
    for place in np.flatnonzero(~np.isfinite(array)).tolist():
        if math.isfinite(values[place]):
            raise _lossy_error(values[place])
    for place in np.flatnonzero(np.abs(array) >= 2**24).tolist():
        value = values[place]
        if type(value) is int and abs(value) > 2**24 - 1:
            raise _lossy_error(value)


def _lossy_error(value: float) -> StatusError:
    return invalid_argument(f"Cannot convert JSON value: {_shown(value)} to float without loss of precision.")


def _type_error(value: Any, dtype: int) -> StatusError:
    return invalid_argument(
        f"JSON Value: {_shown(value)} Type: {_json_type(value)} is not of expected type: {dtype_name(dtype)}"
    )


def _string(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict):
        return _base64_bytes(value)
    raise _type_error(value, DataType.DT_STRING)


def _base64_bytes(value: dict[str, Any]) -> bytes:
    if not _is_base64(value):
        raise invalid_argument(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    text = value[_BASE64_KEY]
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_argument("Unable to base64 decode") from error


def _example(value: Any) -> Example:
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {_json_type(value)}")
    example = Example()
    for name, content in value.items():
        feature = example.features.feature[name]
        for element in content if isinstance(content, list) else [content]:
            kind, converted = _feature_value(name, element)
            if feature.WhichOneof("kind") not in (None, kind):
                raise invalid_argument(
                    f"Unexpected element type in feature: {name} expecting type: "
                    f"{str(feature.WhichOneof('kind')).removesuffix('_list')}"
                )
            getattr(feature, kind).value.append(converted)
    return example


def _feature_value(name: str, value: Any) -> tuple[str, bytes | int | float]:
    if isinstance(value, bool):
        return "int64_list", int(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return "int64_list", value
    if isinstance(value, float):
        if math.isfinite(value) and abs(value) > float(np.finfo(np.float32).max):
            raise _lossy_error(value)
        return "float_list", value
    if isinstance(value, str):
        return "bytes_list", value.encode()
    if _is_base64(value):
        return "bytes_list", _base64_bytes(value)
    raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {_json_type(value)}")


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return str(value)
    return _JSON_TYPES[type(value)]


def _shown(value: Any) -> str:
    """A value as an error message shows it, cut."""
    try:
        text = orjson.dumps(value).decode() if not isinstance(value, float) else _decimal(value)
    except (TypeError, orjson.JSONEncodeError):
        text = "(a value)"
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _text(array: Array, alias: str) -> str:
    """An array as nested JSON lists."""
    kind = array.dtype.kind
    if kind == "O":
        as_bytes = alias.endswith(_BYTES_SUFFIX)
        return _nested(array.tolist(), lambda value: _string_text(value, as_bytes))
    if kind in "biu":
        return orjson.dumps(np.ascontiguousarray(array) if array.ndim else array.item(), option=_NUMPY).decode()
    if kind != "f" or array.dtype.itemsize < 4:
        raise StatusError(Code.UNIMPLEMENTED, f"Conversion of tensor {alias} of {array.dtype} to JSON")
    magnitude = np.abs(array)
    if array.ndim and bool(np.all((magnitude == 0) | ((magnitude >= _PLAIN_RANGE[0]) & (magnitude < _PLAIN_RANGE[1])))):
        # Here the shortest decimal that reads back is what TensorFlow Serving writes, and orjson writes it faster.
        return orjson.dumps(np.ascontiguousarray(array), option=_NUMPY).decode()
    shape, scalars = array.shape, array.ravel()
    texts = np.empty(len(scalars), dtype=object)
    texts[:] = [_decimal(value) for value in scalars]
    return _nested(texts.reshape(shape).tolist(), str)


def _nested(value: Any, text: Callable[[Any], str]) -> str:
    if isinstance(value, list):
        return "[" + ", ".join([_nested(item, text) for item in value]) + "]"
    return text(value)


def _string_text(value: bytes, as_bytes: bool) -> str:
    if not as_bytes:
        try:
            return orjson.dumps(value.decode()).decode()
        except UnicodeDecodeError:
            pass  # text output that is no text can only travel as bytes
    return f'{{"b64": "{base64.b64encode(value).decode()}"}}'


def _decimal(value: float | np.floating[Any]) -> str:
    """A number as TensorFlow Serving writes it: `%g` where that reads back, `.0` behind whole ones."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = f"{value:.6g}"
    if type(value)(text) != value:
        text = str(value)
    return text if "." in text or "e" in text else text + ".0"
