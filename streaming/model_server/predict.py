"""PredictionService.Predict: named tensors in, named tensors out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from streaming.model_server.call import Call
from streaming.model_server.servable import Servable
from streaming.model_server.server_core import ServerCore
from streaming.model_server.signature import Signature, TensorRef, dtype_name
from streaming.model_server.status import failed_precondition, invalid_argument
from streaming.serving_protos import ModelSpec, PredictRequest, PredictResponse, TensorProto
from streaming.tensors import Array, decode_tensor, serialize_tensor

DEFAULT_SIGNATURE = "serving_default"


def predict(core: ServerCore, request: PredictRequest, call: Call, *, as_content: bool = False) -> PredictResponse:
    """Answers one request.

    Args:
      core: where the model is found.
      request: as it came.
      call: its deadline and cancellation.
      as_content: answer in `tensor_content` instead of the typed fields.

    Raises:
      StatusError, tf.errors.OpError: with TensorFlow Serving's codes and texts.
    """
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec = request.model_spec
    with core.servable(spec) as servable:
        signature = predict_signature(servable, spec)
        feeds, arrays = _decoded_inputs(signature, request.inputs)
        fetches = fetched_outputs(signature, request.output_filter)
        results = servable.run(feeds, arrays, fetches, call)
    response = PredictResponse()
    fill_model_spec(response.model_spec, servable, signature.key)
    for ref, array in zip(fetches, results, strict=True):
        response.outputs[ref.alias].MergeFromString(serialize_tensor(array, as_content=as_content))
    return response


def predict_signature(servable: Servable, spec: ModelSpec) -> Signature:
    """The signature that a spec names.

    Raises:
      StatusError: FAILED_PRECONDITION if the model has not got it.
    """
    key = spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(key)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{key}" not found.')
    return signature


def fill_model_spec(spec: ModelSpec, servable: Servable, signature_name: str) -> None:
    """Says in a response which version answered."""
    spec.name = servable.name
    spec.version.value = servable.version
    spec.signature_name = signature_name


def checked_inputs(signature: Signature, given: Mapping[str, object]) -> tuple[TensorRef, ...]:
    """The inputs to feed, in order, if `given` are the aliases that the signature needs.

    Raises:
      StatusError: INVALID_ARGUMENT naming what is missing and what is extra.
    """
    expected = signature.inputs
    if given.keys() == expected.keys():
        return signature.feeds
    names = set(given)
    # Like the real server: a wrong number is reported as such, unless defaults make the number variable.
    if not signature.defaults and len(names) != len(expected):
        raise invalid_argument(
            f"input size does not match signature: {len(names)}!={len(expected)} "
            f"len({_braced(names)}) != len({_braced(expected)}). "
            f"Sent extra: {_braced(names - expected.keys())}. Missing but required: {_braced(expected.keys() - names)}."
        )
    for alias, ref in expected.items():
        if alias not in names and alias not in signature.defaults:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {ref.tensor}) not found in request and no default value "
                f"provided. Inputs expected to be in the request {_braced(names)}, or default input alias set: "
                f"{_braced(signature.defaults)}. Sent extra: {_braced(names - expected.keys())}. "
                f"Missing but required: {_braced(expected.keys() - names - signature.defaults.keys())}."
            )
    extra = names - expected.keys()
    if extra:
        raise invalid_argument(
            f"input size does not match signature: {len(names)}!={len(expected)} "
            f"len({_braced(names)}) != len({_braced(expected)}). "
            f"Sent extra: {_braced(extra)}. Missing but required: {{}}."
        )
    return signature.feeds


def fetched_outputs(signature: Signature, output_filter: Sequence[str]) -> tuple[TensorRef, ...]:
    """The outputs to compute: those of the filter, or all.

    Raises:
      StatusError: INVALID_ARGUMENT for an alias that is unknown or named twice.
    """
    if not output_filter:
        return signature.fetches
    fetches: dict[str, TensorRef] = {}
    for alias in output_filter:
        ref = signature.outputs.get(alias)
        if ref is None:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_braced(signature.outputs)}."
            )
        if alias in fetches:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        fetches[alias] = ref
    return tuple(fetches.values())


def _decoded_inputs(
    signature: Signature, inputs: Mapping[str, TensorProto]
) -> tuple[tuple[TensorRef, ...], list[Array]]:
    feeds = checked_inputs(signature, inputs)
    arrays: list[Array] = []
    for index, ref in enumerate(feeds):
        alias = ref.alias
        if alias not in inputs:
            arrays.append(signature.defaults[alias])
            continue
        proto = inputs[alias]
        try:
            arrays.append(decode_tensor(proto))
        except ValueError as error:
            raise invalid_argument(f"tensor parsing error: {alias}: {error}") from error
        if proto.dtype != ref.dtype:
            raise invalid_argument(
                f"Expects arg[{index}] to be {dtype_name(ref.dtype)} but {dtype_name(proto.dtype)} is provided "
                f"(input {alias} of signature {ref.signature})"
            )
    return feeds, arrays


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
