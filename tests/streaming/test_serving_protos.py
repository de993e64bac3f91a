import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

PROTOS_ALONE = """
import sys
from streaming.serving_protos import PredictRequest, PredictionServiceStub
import streaming.tensors
assert "tensorflow" not in sys.modules and not any(name.startswith("tensorflow.python") for name in sys.modules)
PredictRequest().inputs["x"].float_val.append(1.0)
"""
PROTOS_FIRST = """
from streaming.serving_protos import PredictRequest, TensorProto
import tensorflow as tf
"""
TENSORFLOW_FIRST = """
import tensorflow as tf
from streaming.serving_protos import PredictRequest, TensorProto
"""
MESSAGES_ACROSS = """
request = PredictRequest()
tensor = tf.make_tensor_proto([1.0, 2.0])
assert type(tensor) is TensorProto
request.inputs["x"].CopyFrom(tensor)
assert tf.make_ndarray(request.inputs["x"]).tolist() == [1.0, 2.0]
assert tf.constant(1) + 1 == 2
from tensorflow_serving.apis import predict_pb2
assert predict_pb2.PredictRequest is PredictRequest
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_messages_need_no_tensorflow():
    run(PROTOS_ALONE)


@pytest.mark.parametrize("first", [PROTOS_FIRST, TENSORFLOW_FIRST], ids=["protos first", "tensorflow first"])
def test_messages_are_those_of_tensorflow(first):
    run(first + MESSAGES_ACROSS)
