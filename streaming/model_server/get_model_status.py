"""ModelService.GetModelStatus: the versions of a model and their states."""

from __future__ import annotations

from streaming.model_server.server_core import ServerCore
from streaming.model_server.status import invalid_argument
from streaming.serving_protos import GetModelStatusRequest, GetModelStatusResponse


def get_model_status(core: ServerCore, request: GetModelStatusRequest) -> GetModelStatusResponse:
    """Answers one request. A label in the spec is not looked at, as in TensorFlow Serving.

    Raises:
      StatusError: INVALID_ARGUMENT without a model's name, NOT_FOUND.
    """
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec = request.model_spec
    response = GetModelStatusResponse()
    for status in core.statuses(spec.name, spec.version.value if spec.HasField("version") else None):
        entry = response.model_version_status.add(version=status.version, state=int(status.state))
        entry.status.error_code = int(status.error.code) if status.error else 0
        entry.status.error_message = status.error.message if status.error else ""
    return response
