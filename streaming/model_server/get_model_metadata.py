"""PredictionService.GetModelMetadata: the signatures of a model."""

from __future__ import annotations

from streaming.model_server.predict import fill_model_spec
from streaming.model_server.server_core import ServerCore
from streaming.model_server.status import invalid_argument
from streaming.serving_protos import GetModelMetadataRequest, GetModelMetadataResponse, SignatureDefMap

SIGNATURE_DEF = "signature_def"


def get_model_metadata(core: ServerCore, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
    """Answers one request.

    Raises:
      StatusError: INVALID_ARGUMENT without a model's name, without fields or with one other than `signature_def`;
        NOT_FOUND.
    """
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != SIGNATURE_DEF:
            raise invalid_argument(f"Metadata field {field} is not supported")
    response = GetModelMetadataResponse()
    with core.servable(request.model_spec) as servable:
        fill_model_spec(response.model_spec, servable, "")
        signatures = SignatureDefMap()
        for key, definition in servable.signature_defs.items():
            signatures.signature_def[key].CopyFrom(definition)
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response
