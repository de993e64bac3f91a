"""Rows B: Classify, Regress and MultiInference over gRPC."""

import grpc
import pytest

from streaming.serving_protos import ClassificationRequest, Example, MultiInferenceRequest, RegressionRequest

INVALID = grpc.StatusCode.INVALID_ARGUMENT
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
BOTH = ["Classify", "Regress"]
CLASSES = {"Classify": ClassificationRequest, "Regress": RegressionRequest}


def example(**features):
    message = Example()
    for name, value in features.items():
        message.features.feature[name].float_list.value.append(value)
    return message


def request(method, model="default", signature="", *examples):
    message = CLASSES[method]()
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    message.input.example_list.examples.extend(examples)
    return message


def refused(call, message, code, text=""):
    with pytest.raises(grpc.RpcError) as caught:
        call(message, timeout=30)
    assert caught.value.code() == code, caught.value.details()
    assert text in caught.value.details()


def tasks(*pairs, model="default"):
    message = MultiInferenceRequest()
    for signature, method in pairs:
        task = message.tasks.add(method_name=method)
        task.model_spec.name = model
        task.model_spec.signature_name = signature
    message.input.example_list.examples.append(example(x=2.0))
    return message


def test_b1_classify(target):
    response = target.prediction.Classify(request("Classify", "default", "classify_x_to_y", example(x=2.0)))
    (classification,) = response.result.classifications
    (entry,) = classification.classes
    assert (entry.label, entry.score) == ("", 3.0)
    spec = response.model_spec
    assert (spec.name, spec.signature_name, spec.version.value) == ("default", "classify_x_to_y", 123)


@pytest.mark.parametrize("method", BOTH)
def test_b3_wrong_model_specs(target, method):
    call = getattr(target.prediction, method)
    refused(call, request(method, "foo", "", example(x=2.0)), grpc.StatusCode.NOT_FOUND)
    refused(call, CLASSES[method](), INVALID, "Missing ModelSpec")
    refused(call, request(method, "", "", example(x=2.0)), INVALID)


@pytest.mark.parametrize("method", BOTH)
def test_b4_unknown_signature(target, method):
    message = request(method, "default", "invalid_signature_name", example(x=2.0))
    refused(
        getattr(target.prediction, method),
        message,
        INVALID,
        "No signature was found with the name: invalid_signature_name",
    )


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("kind", ["none", "empty list", "context alone"])
def test_b6_no_examples(target, method, kind):
    message = request(method, "default", {"Classify": "classify_x_to_y", "Regress": "regress_x_to_y"}[method])
    if kind == "empty list":
        message.input.example_list.SetInParent()
    elif kind == "context alone":
        message.input.example_list_with_context.context.CopyFrom(example(x=1.0))
    refused(getattr(target.prediction, method), message, INVALID, "Input is empty.")


def test_b7_regress(target):
    response = target.prediction.Regress(request("Regress", "default", "regress_x_to_y", example(x=2.0)))
    assert [entry.value for entry in response.result.regressions] == [3.0]


def test_several_examples_keep_their_order(target):
    examples = [example(x=value) for value in (80.0, 20.0, 2.0)]
    response = target.prediction.Regress(request("Regress", "default", "regress_x_to_y", *examples))
    assert [entry.value for entry in response.result.regressions] == [42.0, 12.0, 3.0]


def test_an_example_overrides_its_context(target):
    message = request("Regress", "default", "regress_x_to_y")
    message.input.example_list_with_context.context.CopyFrom(example(x=10.0))
    message.input.example_list_with_context.examples.extend([example(), example(x=20.0)])
    response = target.prediction.Regress(message)
    assert [entry.value for entry in response.result.regressions] == [7.0, 12.0]


def test_b11_multi_inference(target):
    response = target.prediction.MultiInference(tasks(("regress_x_to_y", REGRESS), ("classify_x_to_y", CLASSIFY)))
    first, second = response.results
    assert [entry.value for entry in first.regression_result.regressions] == [3.0]
    assert second.classification_result.classifications[0].classes[0].score == 3.0
    assert [result.model_spec.version.value for result in response.results] == [123, 123]
    assert first.model_spec.signature_name == "regress_x_to_y"


def test_b14_unknown_signature(target):
    refused(
        target.prediction.MultiInference,
        tasks(("nope", REGRESS)),
        INVALID,
        "Requested signature not found in model graph: nope",
    )


def test_b15_two_models(target):
    message = tasks(("regress_x_to_y", REGRESS), ("classify_x_to_y", CLASSIFY))
    message.tasks[1].model_spec.name = "half_plus_three"
    refused(
        target.prediction.MultiInference,
        message,
        INVALID,
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    )


def test_b16_a_signature_twice(target):
    refused(
        target.prediction.MultiInference,
        tasks(("regress_x_to_y", REGRESS), ("regress_x_to_y", REGRESS)),
        INVALID,
        "Duplicate evaluation of signature: regress_x_to_y",
    )


def test_b17_other_methods(target):
    refused(
        target.prediction.MultiInference,
        tasks(("serving_default", "tensorflow/serving/predict")),
        grpc.StatusCode.UNIMPLEMENTED,
        "Unsupported signature method_name: tensorflow/serving/predict",
    )
