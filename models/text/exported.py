"""Evaluates an exported model of texts as those see it who serve it: from raw texts, without the run that made it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.class_report import write_class_evaluation
from models.class_weights import class_weights
from models.classes import confusion_lines, score_line, yardstick_line
from models.exported import load_signature, make_folder, run_of, target_of
from models.text.classifier import bigrams_of
from models.text.evaluation import evaluate_texts
from models.text.yardstick import fit_yardstick
from schemas.errors import DatasetError
from schemas.text_dataset import TextDatasetFolder
from schemas.text_model_spec import Bigrams
from schemas.text_spec import parse_text_spec


def evaluate_exported_texts(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    split: str = "test",
    output: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Evaluates an exported model on a split of a dataset, and writes `evaluation.json` and `report.html`.

    The texts themselves are read, so the dataset may have another vocabulary than the one that the model has.

    Args:
      model: a run's folder or a SavedModel's.
      data: a dataset of texts with the model's classes; the yardsticks are those of its train split.
      split: of the dataset.
      output: the folder for the file; the run's when left out.
    Returns:
      The document of `models.text.evaluation.evaluate_texts`, and `split`.
    Raises:
      ModelError: there is no such model, `output` is left out for a model without a run, or it cannot be written.
      DatasetError: the dataset has other classes, or no such split.
    """
    target = target_of(model, output)
    record, predict = load_signature(model)
    spec, classes = parse_text_spec(record["spec"], where=str(model)), record["classes"]
    folder = TextDatasetFolder(data)
    if classes != list(folder.manifest.classes):
        raise DatasetError(
            f"{folder.path}: expected the model's classes {classes}, got {list(folder.manifest.classes)}"
        )

    def scores(batch: Mapping[str, Any]) -> NDArray[np.float32]:
        shares: NDArray[np.float32] = predict(text=tf.constant(batch["text"]))["scores"].numpy()
        return shares

    make_folder(target)  # before the work, not after it
    weights = class_weights(spec.training, classes, folder.split("train").documents_by_class)
    yardstick = fit_yardstick(folder, bigrams_of(spec) or Bigrams(), weights)
    document = {"split": split, **evaluate_texts(folder, split, scores, yardstick)}
    write_class_evaluation(target, spec, document, run_of(model), "documents")
    return document


def evaluation_lines(document: Mapping[str, Any]) -> list[str]:
    """An evaluation in words: accuracy beside the yardsticks, and the confusion of up to twelve classes."""
    majority = document["majority"]
    return [
        score_line(f"{document['documents']} documents of {document['split']}", document),
        yardstick_line(f"always '{majority['class']}'", majority),
        yardstick_line("bigrams", document["bigrams"]),
        *confusion_lines(document),
    ]
