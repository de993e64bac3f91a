"""ModelService.HandleReloadConfigRequest: another set of models for a running server."""

from __future__ import annotations

import time

from streaming.model_server.call import Call
from streaming.model_server.metrics import Metrics
from streaming.model_server.server_core import ServerCore
from streaming.serving_protos import ReloadConfigRequest, ReloadConfigResponse


def handle_reload_config_request(
    core: ServerCore, metrics: Metrics, request: ReloadConfigRequest, call: Call
) -> ReloadConfigResponse:
    """Takes over the config, and answers when its new models answer.

    The response tells by how much each metric of `metric_names` has grown meanwhile; names that no metric has are left
    out.

    Raises:
      StatusError: as `ServerCore.reload_config`.
    """
    call.step_aside()
    before = metrics.totals()
    core.reload_config(request.config, call.expires_s - time.monotonic())
    after = metrics.totals()
    response = ReloadConfigResponse()
    for name in request.metric_names:
        if name in after:
            response.metric.add(name=name, int64_value_increase=int(after[name] - before.get(name, 0.0)))
    return response
