"""What a spec's run trains, by the spec."""

from __future__ import annotations

import os
from typing import Any

from models.task import Task
from models.text.train import TextTask
from models.train import ForecastTask
from models.window_classes import WindowClassTask
from schemas.spec import Spec
from schemas.text_spec import TextSpec


def open_task(spec: Spec | TextSpec, data: str | os.PathLike[str]) -> Task[Any]:
    """The task of a spec, with its dataset; errors are those of the tasks."""
    if isinstance(spec, TextSpec):
        return TextTask(spec, data)
    return WindowClassTask(spec, data) if spec.classes else ForecastTask(spec, data)
