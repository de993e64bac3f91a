"""The message classes and stubs of TensorFlow Serving, without loading TensorFlow.

`tensorflow_serving.apis` imports `tensorflow.core...`, and importing any part of the package `tensorflow` first runs
its `__init__`, which loads the whole runtime: seconds and hundreds of megabytes that a gRPC client has no use for. The
generated protobuf modules below it need only `google.protobuf`. So while they are imported here, the name `tensorflow`
stands for an empty package with the real package's path; afterwards the name is free again.

The modules stay in `sys.modules` under their real names: a process that imports TensorFlow later, or has imported it
before, gets the very same classes.

Import this module before starting threads that import TensorFlow: during this import they would see the empty package.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def _tensorflow_as_bare_package() -> Iterator[None]:
    """Lets `tensorflow.core` be imported without running `tensorflow/__init__.py`.

    Raises:
      ModuleNotFoundError: TensorFlow is not installed.
    """
    if "tensorflow" in sys.modules:
        yield
        return
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("the protobuf modules of TensorFlow Serving need the package tensorflow")
    bare = ModuleType("tensorflow")
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules["tensorflow"] = bare
    try:
        yield
    finally:
        del sys.modules["tensorflow"]


with _tensorflow_as_bare_package():
    from tensorflow.core.example.example_pb2 import Example
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
    from tensorflow.core.framework.types_pb2 import DataType
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
    from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2
    from tensorflow_serving.apis.classification_pb2 import (
        ClassificationRequest,
        ClassificationResponse,
        ClassificationResult,
    )
    from tensorflow_serving.apis.get_model_metadata_pb2 import (
        GetModelMetadataRequest,
        GetModelMetadataResponse,
        SignatureDefMap,
    )
    from tensorflow_serving.apis.get_model_status_pb2 import (
        GetModelStatusRequest,
        GetModelStatusResponse,
        ModelVersionStatus,
    )
    from tensorflow_serving.apis.inference_pb2 import (
        InferenceResult,
        InferenceTask,
        MultiInferenceRequest,
        MultiInferenceResponse,
    )
    from tensorflow_serving.apis.input_pb2 import Input
    from tensorflow_serving.apis.model_management_pb2 import (
        ReloadConfigRequest,
        ReloadConfigResponse,
    )
    from tensorflow_serving.apis.model_pb2 import ModelSpec
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
    from tensorflow_serving.apis.predict_pb2 import (
        PredictRequest,
        PredictResponse,
    )
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    from tensorflow_serving.apis.prediction_service_pb2_grpc import (
        PredictionServiceStub,
    )
    from tensorflow_serving.apis.regression_pb2 import (
        RegressionRequest,
        RegressionResponse,
        RegressionResult,
    )
    from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
        FileSystemStoragePathSourceConfig,
    )
    from tensorflow_serving.config.model_server_config_pb2 import (
        ModelConfig,
        ModelConfigList,
        ModelServerConfig,
    )

MODEL_SERVICE = str(model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name)
PREDICTION_SERVICE = str(prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"].full_name)

__all__ = [
    "MODEL_SERVICE",
    "PREDICTION_SERVICE",
    "ClassificationRequest",
    "ClassificationResponse",
    "ClassificationResult",
    "DataType",
    "Example",
    "FileSystemStoragePathSourceConfig",
    "GetModelMetadataRequest",
    "GetModelMetadataResponse",
    "GetModelStatusRequest",
    "GetModelStatusResponse",
    "InferenceResult",
    "InferenceTask",
    "Input",
    "ModelConfig",
    "ModelConfigList",
    "ModelServerConfig",
    "ModelServiceStub",
    "ModelSpec",
    "ModelVersionStatus",
    "MultiInferenceRequest",
    "MultiInferenceResponse",
    "PredictRequest",
    "PredictResponse",
    "PredictionLog",
    "PredictionServiceStub",
    "RegressionRequest",
    "RegressionResponse",
    "RegressionResult",
    "ReloadConfigRequest",
    "ReloadConfigResponse",
    "SignatureDef",
    "SignatureDefMap",
    "TensorInfo",
    "TensorProto",
    "TensorShapeProto",
]
