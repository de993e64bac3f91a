"""A sabotaged model: one that the registry and the server take for a good one, and that is not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from models import layout, stored
from models.export import export
from models.version_files import record_of


def sabotage(run: str | os.PathLike[str], output: Path) -> None:
    """Exports a run's model with the sign of every weight turned: it loads, answers in time, and is wrong.

    Args:
      run: the folder of a training run.
      output: a new folder, which `models.registry.Registry.publish` takes as a run.
    Raises:
      ModelError: there is no such run.
    """
    kept = stored.load(run)
    record = record_of(Path(run) / layout.EXPORT_FOLDER)
    output.mkdir(parents=True)
    export(
        kept.spec,
        kept.statistics,
        [-weight if np.issubdtype(weight.dtype, np.floating) else weight for weight in kept.model.get_weights()],
        to=output / layout.EXPORT_FOLDER,
        lineage={name: record[name] for name in ("lineage", "metrics") if name in record},
        state=kept.state,
    )
