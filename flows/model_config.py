"""The model config file of a model server: how many versions of the spec's model it serves, and their labels.

It is the file that `--model_config_file` names, of TensorFlow Serving as of the embedded server, in protobuf's text
form. A server that looks at it now and then (`--model_config_file_poll_wait_seconds`) follows every change, also after
a restart, and so do all servers of the same folder. (`HandleReloadConfigRequest` reaches one server, is forgotten when
that restarts, and has to name every other model of it, which a server does not tell.) Only the entry of the spec's
model is changed, and of an entry that is there only its version policy and labels: its base path may be the server's
own name for the folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from schemas.errors import InputError
from schemas.spec import Spec
from schemas.text_spec import TextSpec

if TYPE_CHECKING:
    from streaming.serving_protos import ModelServerConfig

FILE = "models.config"

CONFIG_POLL_S = 1
"""How often a model server looks whether other versions are to be served."""


def config_file(spec: Spec | TextSpec) -> Path:
    """Where the file is: the spec's, or that in the model's folder."""
    return Path(spec.serving.config_file or Path(spec.paths.models, spec.model_name, FILE)).absolute()


def prepare(spec: Spec | TextSpec) -> Path:
    """Makes the file say that the spec's model is in the spec's folder, for a server on this machine.

    How many versions are served, and their labels, stay as they are; without an entry it is the latest version.

    Raises:
      InputError: it cannot be read or written.
    """
    with _entry(spec) as entry:
        entry.base_path = str(Path(spec.paths.models).absolute() / spec.model_name)
    return config_file(spec)


def serve_versions(spec: Spec | TextSpec, newest: int, labels: Mapping[str, int] | None = None) -> None:
    """Has the newest versions of the model served, and gives labels to some.

    A label moves once its version is AVAILABLE; a server tries again until then.

    Args:
      spec: whose model.
      newest: so many versions.
      labels: all labels of the model; none when left out.
    Raises:
      InputError: the file cannot be read or written.
    """
    with _entry(spec) as entry:
        entry.model_version_policy.Clear()
        if newest > 1:
            entry.model_version_policy.latest.num_versions = newest
        entry.version_labels.clear()
        entry.version_labels.update(labels or {})


@contextmanager
def _entry(spec: Spec | TextSpec) -> Iterator[Any]:
    """The entry of the spec's model in the spec's file."""
    with model_entry(config_file(spec), spec.model_name) as entry:
        entry.base_path = entry.base_path or str(Path(spec.paths.models).absolute() / spec.model_name)
        yield entry


@contextmanager
def model_entry(path: Path, name: str) -> Iterator[Any]:
    """A model's entry in a file, made where there is none, to be changed in the block.

    When the block ends, the file is replaced, if it says something else. A new entry has no base path yet.

    Raises:
      InputError: the file cannot be read or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            config = _read(path)
            before = config.SerializeToString(deterministic=True)
            entries = config.model_config_list.config
            entry = next((one for one in entries if one.name == name), None)
            if entry is None:
                entry = entries.add(name=name, model_platform="tensorflow")
            yield entry
            if config.SerializeToString(deterministic=True) != before:
                _write(path, config)
    except OSError as exc:
        raise InputError(f"{path}: cannot be read or written: {exc.strerror or exc}") from exc


def _read(path: Path) -> ModelServerConfig:
    from google.protobuf import text_format

    from streaming.serving_protos import ModelServerConfig

    config = ModelServerConfig()
    if path.exists():
        try:
            text_format.Parse(path.read_text(encoding="utf-8"), config)
        except (text_format.ParseError, UnicodeDecodeError) as exc:
            raise InputError(f"{path}: expected a ModelServerConfig in protobuf's text form: {exc}") from exc
    return config


def _write(path: Path, config: ModelServerConfig) -> None:
    from google.protobuf import text_format

    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text_format.MessageToString(config), encoding="utf-8")
    os.replace(partial, path)
