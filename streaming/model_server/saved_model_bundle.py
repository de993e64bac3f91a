"""Loading and running a SavedModel: TensorFlow's own part of the server.

A model is loaded into a version 1 session, as TensorFlow Serving does it: that keeps the SignatureDefs as saved and
runs models that `tf.saved_model.load` no longer can. Its raw callable is several times cheaper per call than a
signature function and, like the real server, compares no request with the signature's static shape. Where an installed
TensorFlow lacks that callable, signatures run eagerly.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import CallableOptions
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from streaming.model_server.signature import TensorRef
from streaming.model_server.status import not_found
from streaming.serving_protos import SignatureDef
from streaming.tensors import Array

Executable = Callable[..., Sequence[Array]]
"""Takes the feeds in order as arrays, and gives the fetches in order."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How sessions run.

    Attributes:
      tags: of the MetaGraph to load.
      intra_op_threads: threads of one operation; 0 is TensorFlow's choice.
      inter_op_threads: operations run side by side; 0 runs each request in the thread that carries it, which suits
        small and sequential models, n > 0 uses a pool of n threads.
    """

    tags: tuple[str, ...] = ("serve",)
    intra_op_threads: int = 0
    inter_op_threads: int = 0


class Bundle(Protocol):
    """A loaded SavedModel."""

    @property
    def signature_defs(self) -> Mapping[str, SignatureDef]:
        """As saved."""
        ...

    def executable(self, feeds: tuple[TensorRef, ...], fetches: tuple[TensorRef, ...]) -> Executable:
        """Prepares one combination of feeds and fetches; later calls for the same one are cheap."""

    def close(self) -> None:
        """Gives the model's memory back. Nothing may run at the time or afterwards."""


def load_bundle(path: Path, options: SessionOptions) -> Bundle:
    """Loads a SavedModel for running.

    Raises:
      tf.errors.OpError, OSError, RuntimeError, ValueError: it cannot be loaded.
    """
    if hasattr(tf.compat.v1.Session, "_make_callable_from_options"):
        return SessionBundle(path, options)
    return EagerBundle(path, options)


class SessionBundle:
    """A SavedModel in a session of its own."""

    def __init__(self, path: Path, options: SessionOptions) -> None:
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(
            graph=graph,
            config=tf.compat.v1.ConfigProto(
                intra_op_parallelism_threads=options.intra_op_threads,
                inter_op_parallelism_threads=options.inter_op_threads or -1,
            ),
        )
        try:
            with graph.as_default():
                meta_graph = tf.compat.v1.saved_model.load(self._session, list(options.tags), str(path))
        except BaseException:
            self._session.close()
            raise
        self._signature_defs = dict(meta_graph.signature_def)
        self._executables: dict[tuple[tuple[str, ...], tuple[str, ...]], Executable] = {}
        self._lock = threading.Lock()

    @property
    def signature_defs(self) -> Mapping[str, SignatureDef]:
        """As saved."""
        return self._signature_defs

    def executable(self, feeds: tuple[TensorRef, ...], fetches: tuple[TensorRef, ...]) -> Executable:
        """Makes a raw callable once for each combination, and keeps it."""
        key = tuple([ref.tensor for ref in feeds]), tuple([ref.tensor for ref in fetches])
        found = self._executables.get(key)
        if found is None:
            with self._lock:
                found = self._executables.get(key) or self._make(*key)
                self._executables[key] = found
        return found

    def close(self) -> None:
        """Closes the session, which frees the variables."""
        self._executables.clear()
        self._session.close()

    def _make(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Executable:
        # Two aliases may name one tensor, which the runtime fetches once only.
        unique = list(dict.fromkeys(fetches))
        run: Callable[..., Sequence[Any]] = self._session._make_callable_from_options(
            CallableOptions(feed=feeds, fetch=unique)
        )
        in_order = len(unique) == len(fetches)
        places = [unique.index(name) for name in fetches]

        def run_arrays(*arrays: Array) -> Sequence[Array]:
            results = run(*arrays)
            for result in results:
                if type(result) is not np.ndarray:
                    results = [_as_array(result) for result in results]
                    break
            return results if in_order else [results[place] for place in places]

        return run_arrays


class EagerBundle:
    """A SavedModel whose signatures are called as TensorFlow functions."""

    def __init__(self, path: Path, options: SessionOptions) -> None:
        self._loaded = tf.saved_model.load(str(path), tags=list(options.tags))
        self._signature_defs = _read_signature_defs(path, options.tags)

    @property
    def signature_defs(self) -> Mapping[str, SignatureDef]:
        """As saved."""
        return self._signature_defs

    def executable(self, feeds: tuple[TensorRef, ...], fetches: tuple[TensorRef, ...]) -> Executable:
        """Calls each signature that `fetches` names, with the feeds by alias."""
        functions = {ref.signature: self._loaded.signatures[ref.signature] for ref in fetches}

        def run(*arrays: Array) -> Sequence[Array]:
            tensors = {ref.alias: tf.constant(array) for ref, array in zip(feeds, arrays, strict=True)}
            results = {key: function(**tensors) for key, function in functions.items()}
            return [np.asarray(results[ref.signature][ref.alias]) for ref in fetches]

        return run

    def close(self) -> None:
        """Lets go of the model; Python frees it."""
        del self._loaded


def _as_array(result: Any) -> Array:
    """What a session gives for one fetch: scalars come as numpy scalars, and those of strings as `bytes`."""
    if isinstance(result, np.ndarray):
        return result
    return np.array(result, dtype=object if isinstance(result, bytes) else None)


def _read_signature_defs(path: Path, tags: tuple[str, ...]) -> dict[str, SignatureDef]:
    """Reads the SignatureDefs of the MetaGraph with exactly these tags.

    Raises:
      StatusError: there is no such MetaGraph.
      OSError: there is no binary `saved_model.pb`.
    """
    saved = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    for meta_graph in saved.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return dict(meta_graph.signature_def)
    raise not_found(f"MetaGraphDef associated with tags {{{', '.join(tags)}}} could not be found in {path.name}")
