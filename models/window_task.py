"""What training on windows has in common, whether it is for forecasts or for classes."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from rich.console import Console

from models import stored
from models.descent import Feed
from models.families import FAMILIES
from models.families.family import Family, FittedFamily
from models.forecaster import build_forecaster
from models.forms import model_section
from models.reader import batches_of, windows
from models.task import S, Task, require_no_ensemble
from schemas.dataset import DatasetFolder
from schemas.spec import Spec
from schemas.split_spec import SPLITS


class WindowTask(Task[S]):
    """A model of windows.

    Args:
      spec: with a model.
      data: a dataset of the spec's windows and splits.
    Raises:
      ModelError: the spec has no model.
      DatasetError: the dataset is not the spec's, is damaged, or a split of it is empty.
    """

    noun = "windows"
    spec: Spec
    folder: DatasetFolder

    def __init__(self, spec: Spec, data: str | os.PathLike[str]) -> None:
        self.spec, self.family = spec, model_section(spec).family
        self.folder = DatasetFolder(data)
        self.folder.require_windows_of(spec)
        self._require_splits()

    @property
    def fitted(self) -> bool:
        """So is an ensemble, of its members; `fit` cannot do that."""
        return not isinstance(FAMILIES.get(self.family), Family)

    @property
    def lineage(self) -> dict[str, Any]:
        """The dataset by its manifest's hash, and the origins of its splits."""
        kept = {"windows", "first_origin_ms", "last_origin_ms"}
        splits = {name: self.folder.split(name).model_dump(include=kept) for name in SPLITS}
        return {"dataset_manifest_sha256": self.folder.digest, "splits": splits}

    def cases(self, split: str) -> int:
        """How many windows a split has."""
        return self.folder.split(split).windows

    def fit(self, run: Path, console: Console) -> dict[str, Any]:
        """Finds the model without descent and keeps it in the run's folder; returns what is worth knowing of it.

        Raises:
          ModelError: the model is an ensemble.
        """
        require_no_ensemble(self.family)
        family = FAMILIES[self.family]
        assert isinstance(family, FittedFamily)
        fitted = family.fit(self.spec, self.folder)
        console.print(f"fitted: {fitted.summary}", highlight=False, soft_wrap=True)
        statistics = self.folder.statistics
        stored.save(run, statistics, build_forecaster(self.spec, statistics, state=fitted.state), fitted.state)
        return {"fit": {"summary": fitted.summary, **fitted.report}}

    def build(self) -> Any:
        """A new model of `models.forecaster`."""
        return build_forecaster(self.spec, self.folder.statistics, precision=self.spec.training.precision)

    def feed(self, model: Any) -> Feed:  # noqa: ARG002
        """The windows of the splits, supervised."""
        options, supervise = self.spec.training, self.supervise()

        def batches(split: str, seed: Any = None, sample: int | None = None) -> Any:
            cut = windows(self.folder, split, batch_size=options.batch_size, shuffle_seed=seed, sample=sample)
            return cut.map(supervise).prefetch(tf.data.AUTOTUNE)

        return Feed(
            train=lambda seed: batches("train", seed, options.windows_per_epoch),
            train_steps=batches_of(self.cases("train"), options.batch_size, options.windows_per_epoch),
            validation=batches("validation"),
            validation_steps=batches_of(self.cases("validation"), options.batch_size),
        )

    @abstractmethod
    def supervise(self) -> Callable[[dict[str, Any]], tuple[Any, Any, Any]]:
        """From a batch of the reader to inputs, labels and weights, for `tf.data.Dataset.map`."""

    def keep(self, run: Path, model: Any) -> None:
        """Keeps a trained model in the run's folder, where `run.json` has its spec already."""
        stored.save(run, self.folder.statistics, model)
