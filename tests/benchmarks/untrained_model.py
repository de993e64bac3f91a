"""A model as the spec says, exported without training: how good it is does not matter where only time is measured.

python -m tests.benchmarks.untrained_model SPEC ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from schemas.spec import Spec, load_spec


def push(spec: Spec) -> int:
    """Writes version 1 of the spec's model to where its server looks; how many parameters it has."""
    from models.export import export
    from models.forecaster import build_forecaster
    from schemas.dataset import Moments, Statistics

    unit = Moments(count=1_000, mean=0.0, std=1.0, min=-4.0, max=4.0)
    statistics = Statistics(features={feature.name: unit for feature in spec.stream.features}, keys={})
    model = build_forecaster(spec, statistics)
    folder = Path(spec.paths.models, spec.model_name, "1")
    folder.parent.mkdir(parents=True)
    export(spec, statistics, model.get_weights(), to=folder, lineage={})
    return int(model.count_params())


if __name__ == "__main__":
    for file in sys.argv[1:]:
        print(push(load_spec(file)))
