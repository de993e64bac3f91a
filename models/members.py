"""The trained runs that an ensemble is made of, whatever they were trained for."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from models import layout
from schemas.dataset import DatasetFolder
from schemas.errors import ModelError
from schemas.spec import Spec
from schemas.text_dataset import TextDatasetFolder
from schemas.text_spec import TextSpec

Float64 = NDArray[np.float64]
A = TypeVar("A", Spec, TextSpec)
F = TypeVar("F", DatasetFolder, TextDatasetFolder)


class Members(ABC, Generic[A, F]):
    """Complete runs of one dataset: `runs` are their folders, `specs` their specs, in the same order."""

    runs: Sequence[Path]
    specs: Sequence[A]

    def sections(self) -> list[dict[str, Any]]:
        """The members' sections of the model, as JSON values."""
        return [spec.semantic_document()["model"] for spec in self.specs]

    def require_kin(self, folder: F) -> None:
        """Finds out whether the members can be one model.

        Raises:
          ModelError: one of them was trained on another dataset, is an ensemble itself, or otherwise goes with the
            first one in no ensemble.
        """
        for number, (run, spec) in enumerate(zip(self.runs, self.specs, strict=True)):
            record = json.loads((run / layout.RUN_FILE).read_bytes())
            if spec.window_fingerprint != self.specs[0].window_fingerprint:
                raise ModelError(f"{run}: expected a run of the same windows or texts as the others, got one of others")
            if record["lineage"]["dataset_manifest_sha256"] != folder.digest:
                raise ModelError(f"{run}: expected a run that was trained on {folder.path}, got one of another dataset")
            if spec.model is not None and spec.model.family == "ensemble":
                raise ModelError(f"{run}: expected a run of a single model, got an ensemble; take its members instead")
            if problem := self._unlike_the_first(number):
                raise ModelError(f"{run}: {problem}")

    @abstractmethod
    def _unlike_the_first(self, number: int) -> str | None:
        """Why a member goes with the first one in no ensemble, if so."""

    @abstractmethod
    def fitted_weights(self, folder: F) -> Float64:
        """The members' weights, float64 (member,), that are best on the validation split."""

    @abstractmethod
    def spec_of(self, weights: Float64) -> A:
        """The ensemble's spec: the first one's, with the members as its model."""

    @abstractmethod
    def keep(self, run: Path, spec: A, folder: F) -> None:
        """Keeps the ensemble in its run's folder, where `run.json` has its spec already."""
