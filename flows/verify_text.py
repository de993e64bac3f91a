"""Verify for texts: the ids that ingest writes equal those that the exported graph computes from the raw text.

The two ends: the batches as the training reader delivers them (files, Beam, TFRecord, tf.data), and what a SavedModel,
written to disk and loaded again, answers for the same raw texts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.text_dataset import TextDatasetFolder
from schemas.text_spec import TextSpec

_BATCH = 64


@dataclass(frozen=True, slots=True)
class TextParity:
    """What a comparison found; `first_difference` says where, in words."""

    documents: int
    different: int
    first_difference: str | None

    @property
    def holds(self) -> bool:
        """Whether both sides have the same ids for every document, and there is at least one."""
        return self.documents > 0 and not self.different

    def lines(self) -> list[str]:
        """The result in words."""
        verdict = "the ids are equal" if self.holds else f"{self.different} have other ids"
        return [f"{self.documents} documents: {verdict}", *([self.first_difference] if self.first_difference else [])]


def verify_texts(spec: TextSpec, inputs: Sequence[str]) -> TextParity:
    """Takes files through the ingest, and each of their documents through an exported graph.

    Args:
      spec: the stream.
      inputs: files or patterns.
    Raises:
      InputError: a file cannot be used.
    """
    from pipelines.text_ingest import ingest_texts

    with tempfile.TemporaryDirectory(prefix="tidegauge-verify-") as workdir:
        dataset = Path(workdir, "dataset")
        ingest_texts(spec, inputs=inputs, output=str(dataset))
        return verify_text_dataset(TextDatasetFolder(dataset))


def verify_text_dataset(folder: TextDatasetFolder) -> TextParity:
    """Compares the ids of every document of a dataset with those of the graph."""
    from models.text.reader import documents

    count = different = 0
    first: str | None = None
    with tempfile.TemporaryDirectory(prefix="tidegauge-verify-") as workdir:
        served = _served(folder, Path(workdir, "model"))
        for split in folder.manifest.splits:
            for batch in documents(folder, split, batch_size=_BATCH).as_numpy_iterator():
                found = served(batch["text"])
                for row, text in enumerate(batch["text"]):
                    wanted = _stripped(batch["ids"][row], batch["mask"][row])
                    got = _stripped(found["ids"][row], found["mask"][row])
                    count += 1
                    if wanted != got:
                        different += 1
                        first = first or f"{text[:60]!r}: ingest has {wanted[:20]}, the graph {got[:20]}"
    return TextParity(count, different, first)


def _served(folder: TextDatasetFolder, path: Path) -> Callable[[NDArray[Any]], dict[str, NDArray[Any]]]:
    """The signature of a graph that was exported and loaded: string (batch,) to ids and mask as the reader's."""
    import tensorflow as tf

    from models.text.graph import TextGraph

    graph = TextGraph(folder.spec.text, folder.vocabulary)
    traced = tf.function(graph.padded, autograph=False).get_concrete_function(tf.TensorSpec([None], tf.string, "text"))
    tf.saved_model.save(graph, str(path), signatures=traced)
    loaded = tf.saved_model.load(str(path))

    def served(texts: NDArray[Any]) -> dict[str, NDArray[Any]]:
        answer = loaded.signatures["serving_default"](text=tf.constant(texts))
        return {name: tensor.numpy() for name, tensor in answer.items()}

    return served


def _stripped(ids: NDArray[np.int32], mask: NDArray[np.bool_]) -> list[Any]:
    """A document's ids, in rows where there are rows, without padding."""
    if ids.ndim == 1:
        return list(ids[mask].tolist())
    return [of_row[kept].tolist() for of_row, kept in zip(ids, mask, strict=True) if kept.any()]
