"""Tells a webhook or a command what happened to a model. Whether it could be told changes nothing: it is a warning."""

from __future__ import annotations

import json
import logging
import subprocess
import urllib.request
from collections.abc import Mapping
from typing import Any

from schemas.retrain_spec import Event, Notify

_LOGGER = logging.getLogger(__name__)


def notify(settings: Notify, event: Event, document: Mapping[str, Any]) -> bool:
    """Posts an event to the webhook and gives it to the command, where there are any and they want it.

    Args:
      settings: who is told, and of what.
      event: what happened.
      document: JSON values about it; `event` is added.
    Returns:
      Whether all who wanted it have taken it.
    """
    if event not in settings.on:
        return True
    body = json.dumps({"event": event, **document}).encode()
    taken = True
    if settings.webhook is not None:
        try:
            _post(settings.webhook, body, settings.timeout / 1_000)
        except (OSError, ValueError) as exc:  # urllib's errors are OSErrors
            _LOGGER.warning("$.retrain.notify.webhook: was not told of '%s': %s", event, exc)
            taken = False
    if settings.command:
        try:
            subprocess.run(
                settings.command, input=body, capture_output=True, check=True, timeout=settings.timeout / 1_000
            )
        except (OSError, subprocess.SubprocessError) as exc:
            _LOGGER.warning("$.retrain.notify.command: was not told of '%s': %s", event, exc)
            taken = False
    return taken


def _post(url: str, body: bytes, timeout_s: float) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "tidegauge"}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")  # noqa: S310 (http or https)
    with urllib.request.urlopen(request, timeout=timeout_s) as response:  # noqa: S310
        response.read()
