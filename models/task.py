"""What a run trains: forecasts, classes of windows or classes of texts. How a run goes, `models.run` says for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from rich.console import Console

from models.descent import Feed, Objective, Remarks
from models.run_folder import check_file
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError, ModelError
from schemas.spec import Spec
from schemas.split_spec import SPLITS
from schemas.text_dataset import TextDatasetFolder
from schemas.text_spec import TextSpec


@dataclass(frozen=True, slots=True)
class Course:
    """How a run went. Without descent there are no epochs, and the best one is 0."""

    run: str
    family: str
    epochs: int
    best_epoch: int
    seconds: float


class Summary(Protocol):
    """What came of a run: a dataclass of JSON values."""

    def lines(self) -> list[str]:
        """The summary in words."""


S = TypeVar("S", bound=Summary)


class Task(ABC, Generic[S]):
    """A spec's model to train on a dataset of it.

    `spec` has a model, of the family `family`. Of one that is `fitted`, `fit` finds the model; else descent does, by
    what the other methods give.
    """

    summary: Callable[..., S]
    """The summary's class: `summarise` makes one, and a complete run's is made again of its outcome."""
    scores: tuple[str, ...]
    """What `validate` gives, all the better the lower; a search goes by the first unless told otherwise."""
    noun: str
    """What the dataset is of."""
    spec: Spec | TextSpec
    folder: DatasetFolder | TextDatasetFolder
    family: str

    @property
    @abstractmethod
    def fitted(self) -> bool:
        """Whether the family is found without descent."""

    @property
    @abstractmethod
    def lineage(self) -> dict[str, Any]:
        """What the model is made of, as JSON values: the dataset by its manifest's hash, and its splits."""

    @property
    def record(self) -> dict[str, Any]:
        """What tells a run of this task from others."""
        return {"spec": self.spec.semantic_document(), "family": self.family, "lineage": self.lineage}

    @abstractmethod
    def cases(self, split: str) -> int:
        """How many windows or documents a split has."""

    def _require_splits(self) -> None:
        """Finds out before training what can be said of the dataset in one line.

        Raises:
          DatasetError: the dataset has other splits than the spec, one of them is empty, or a file is damaged.
        """
        if self.folder.spec.split is None or self.folder.spec.split != self.spec.split:
            raise DatasetError(
                f"{self.folder.path}: expected the splits of this spec ($.split), got others; ingest again"
            )
        for name in SPLITS:
            if not self.cases(name):
                raise DatasetError(f"{self.folder.path}: expected {self.noun} in the split '{name}', got none")
            for shard in self.folder.split(name).shards:
                check_file(self.folder.path / shard.path, shard.sha256)

    @abstractmethod
    def fit(self, run: Path, console: Console) -> dict[str, Any]:
        """Finds the model without descent and keeps it in the run's folder; returns what the run's record says more."""

    @abstractmethod
    def build(self) -> Any:
        """A new Keras model."""

    @abstractmethod
    def objective(self) -> Objective:
        """What descent makes small."""

    @abstractmethod
    def feed(self, model: Any) -> Feed:
        """The batches of the splits `train` and `validation`, as a model that was built takes them."""

    @abstractmethod
    def remarks(self) -> Remarks:
        """What an epoch's record says beyond the objective's numbers."""

    @abstractmethod
    def keep(self, run: Path, model: Any) -> None:
        """Keeps a trained model in the run's folder, where `run.json` has its spec already."""

    @abstractmethod
    def validate(self, run: Path) -> dict[str, float]:
        """The scores on the validation split of the model that the run's folder keeps."""

    @abstractmethod
    def complete(self, run: Path, lineage: Mapping[str, Any]) -> dict[str, Any]:
        """Measures the model that the run's folder keeps on the test split, and exports it.

        Args:
          run: the folder; the evaluation and the export go there too.
          lineage: JSON values for the export's record.
        Returns:
          The evaluation, as it stands in the folder.
        """

    @abstractmethod
    def summarise(self, course: Course, metrics: Mapping[str, Any]) -> S:
        """Tells of a complete run, by what `complete` gave."""


def require_no_ensemble(family: str) -> None:
    """Before a model is fitted.

    Raises:
      ModelError: it is an ensemble.
    """
    if family == "ensemble":
        raise ModelError("$.model.family: an 'ensemble' is made of trained runs, by `tidegauge ensemble`")
