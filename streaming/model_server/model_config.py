"""The list of models to serve, checked: from flags, from a config file, or from a reload request."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format

from streaming.model_server.file_system_storage_path_source import VersionPolicy
from streaming.model_server.status import Code, StatusError, invalid_argument
from streaming.serving_protos import ModelConfig, ModelServerConfig

_TENSORFLOW_MODEL_TYPE = 1


@dataclass(frozen=True)
class ServedModel:
    """One entry of a ModelServerConfig.

    Attributes:
      name: as requests say it.
      base_path: absolute; its numeric children are the versions.
      policy: which of them are served.
      labels: names for versions.
    """

    name: str
    base_path: Path
    policy: VersionPolicy
    labels: Mapping[str, int]


def single_model(name: str, base_path: str) -> ModelServerConfig:
    """The config that `--model_name` and `--model_base_path` stand for."""
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=base_path, model_platform="tensorflow")
    return config


def read_model_config_file(path: Path) -> ModelServerConfig:
    """Reads a text-format ModelServerConfig.

    Raises:
      StatusError: INVALID_ARGUMENT for a file that does not parse, NOT_FOUND for one that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StatusError(Code.NOT_FOUND, f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise invalid_argument(f"{path}: expected UTF-8 text: {error.reason} at byte {error.start}") from error
    try:
        return text_format.Parse(text, ModelServerConfig())
    except text_format.ParseError as error:
        raise invalid_argument(
            f"Error parsing text-format tensorflow.serving.ModelServerConfig: {path}:{error}"
        ) from error


def served_models(config: ModelServerConfig, allowed_roots: Sequence[Path]) -> dict[str, ServedModel] | None:
    """Checks a config.

    Args:
      config: as it came.
      allowed_roots: resolved folders that base paths must lie in; none allows all.

    Returns:
      The models by name; None for a config that says nothing, which changes nothing.

    Raises:
      StatusError: INVALID_ARGUMENT, or PERMISSION_DENIED for a path outside the allowed roots.
    """
    kind = config.WhichOneof("config")
    if kind is None:
        return None
    if kind != "model_config_list":
        raise invalid_argument("Expected a model_config_list, got a custom_model_config, which this server has not")
    models: dict[str, ServedModel] = {}
    for entry in config.model_config_list.config:
        model = _served_model(entry)
        if model.name in models:
            raise invalid_argument(f"Illegal to list model {model.name} multiple times in config list")
        models[model.name] = model
    for model in models.values():
        check_allowed(model.base_path, allowed_roots)
    return models


def check_allowed(path: Path, allowed_roots: Sequence[Path]) -> None:
    """Raises PERMISSION_DENIED unless `path`, links followed, lies in one of the resolved roots, if there are any."""
    if not allowed_roots:
        return
    resolved = Path(os.path.realpath(path))
    if not any(resolved.is_relative_to(root) for root in allowed_roots):
        raise StatusError(Code.PERMISSION_DENIED, f"{path} is outside the folders of --allowed_model_roots")


def _served_model(entry: ModelConfig) -> ServedModel:
    if not entry.name:
        raise invalid_argument("Expected a model name, got none")
    if entry.model_platform not in ("", "tensorflow") or entry.model_type not in (0, _TENSORFLOW_MODEL_TYPE):
        raise invalid_argument(
            f"Expected platform tensorflow for model {entry.name}, got {entry.model_platform or entry.model_type}"
        )
    if "\0" in entry.base_path or not Path(entry.base_path).is_absolute():
        raise invalid_argument(
            f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path!r}"
        )
    return ServedModel(entry.name, Path(entry.base_path), entry.model_version_policy, dict(entry.version_labels))
