"""Rows E: batching. E3 does not hold here: sequences of unequal shape are answered, each in a batch of its equals.

The server is started with these parameters; of another one, with `--batching-target HOST:PORT`, they are expected:
max_batch_size 4, batch_timeout_micros 1000000, num_batch_threads 1.
"""

import threading
import time

import grpc
import numpy as np
import pytest

from streaming.serving_protos import PredictionServiceStub, PredictRequest
from streaming.tensors import decode_tensor, encode_tensor
from tests.conformance.server_process import ServerProcess


@pytest.fixture(scope="module")
def prediction(request, tmp_path_factory):
    address = request.config.getoption("--batching-target", default=None)
    if address:
        with grpc.insecure_channel(address) as channel:
            yield PredictionServiceStub(channel)
        return
    models = request.getfixturevalue("models")
    folder = tmp_path_factory.mktemp("batching")
    parameters = folder / "batching.pbtxt"
    parameters.write_text(
        "max_batch_size { value: 4 } batch_timeout_micros { value: 1000000 } num_batch_threads { value: 1 }"
    )
    with ServerProcess(
        folder,
        f"--model_base_path={models / 'half_plus_two'}",
        "--enable_batching",
        f"--batching_parameters_file={parameters}",
    ) as server:
        yield server.prediction


def predict(prediction, values, signature=""):
    request = PredictRequest(model_spec={"name": "default", "signature_name": signature})
    request.inputs["x"].CopyFrom(encode_tensor(np.array(values, np.float32)))
    return decode_tensor(prediction.Predict(request, timeout=20).outputs["y"]).tolist()


def together(*calls):
    """Runs calls at the same time; gives their results, and how long all took."""
    results = [None] * len(calls)

    def run(place):
        results[place] = calls[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, time.monotonic() - started


def test_e1_two_requests_fill_a_batch(prediction):
    predict(prediction, [[1.0], [2.0], [3.0], [4.0]])
    results, elapsed_s = together(
        lambda: predict(prediction, [[100.0], [42.0]]), lambda: predict(prediction, [[71.5], [18.3]])
    )
    assert results[0] == [[52.0], [23.0]]
    assert results[1] == [[37.75], [pytest.approx(11.15)]]
    assert elapsed_s < 0.8


def test_a_batch_that_is_not_full_waits_for_the_timeout(prediction):
    (result,), elapsed_s = together(lambda: predict(prediction, [[2.0]]))
    assert result == [[3.0]]
    assert 0.9 < elapsed_s < 3


def test_e2_a_request_larger_than_a_batch(prediction):
    with pytest.raises(grpc.RpcError) as caught:
        predict(prediction, [[1.0]] * 5)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "Task size 5 is larger than maximum input batch size 4" in caught.value.details()


def test_unequal_shapes_are_answered_each(prediction):
    results, _ = together(lambda: predict(prediction, [[2.0, 4.0]]), lambda: predict(prediction, [[2.0, 4.0, 6.0]] * 2))
    assert results == [[[3.0, 4.0]], [[3.0, 4.0, 5.0]] * 2]


def test_inputs_without_rows(prediction):
    with pytest.raises(grpc.RpcError) as caught:
        predict(prediction, 2.0)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "input tensors must have at least one dimension" in caught.value.details()
