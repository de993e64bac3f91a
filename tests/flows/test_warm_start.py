"""Windows from a dataset go on in the topic as if all had come from the topic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from flows.warm_start import DatasetSeeds
from pipelines.ingest import ingest
from pipelines.kernels.windowing import Windowing
from schemas.errors import DatasetError
from schemas.event import EventReader
from schemas.spec import Spec
from streaming.partition import Partition
from tests.specs import tiny_spec
from tests.streaming.test_partition import Log, outputs

NOW_MS = 10_000_000


def events(spec: Spec, seed: int) -> list[tuple[str, int, float | None, float | None]]:
    """(key, time, load, heat) of three keys, in the order of time, with gaps and missing values."""
    rng = np.random.default_rng(seed)
    found = []
    for key in "xyz":
        for step in range(60):
            if rng.random() > 0.1:
                time_ms = 1_000 + 10 * step + int(rng.integers(10))
                load = None if rng.random() < 0.1 else round(float(rng.normal()), 3)
                heat = None if rng.random() < 0.3 else round(float(rng.normal()), 3)
                found.append((key, time_ms, load, heat))
    return sorted(found, key=lambda event: event[1])


def partition(spec: Spec, seeds: DatasetSeeds | None = None) -> Partition:
    return Partition(
        spec,
        Windowing(spec),
        EventReader(spec),
        name="tiny.events[0]",
        partitions=1,
        start_offset=0,
        live_from=0,
        keys=seeds.states(0, 1, 0) if seeds else None,
        seeded=seeds is not None,
    )


@pytest.mark.parametrize(("regular", "layout"), [(True, "window"), (False, "block")])
def test_a_seeded_partition_goes_on_with_the_same_windows(regular: bool, layout: str, tmp_path: Path) -> None:
    spec = tiny_spec(
        grid={"regular": regular, "lateness": "0ms", "max_gap": 2, "max_disorder": "1s"},
        window={"past": 4},
        dataset={"layout": layout},
    )
    log = events(spec, 1)
    cut_ms = 1_400
    rows = "".join(
        f"{key},{time_ms},{'' if load is None else load},{'' if heat is None else heat}\n"
        for key, time_ms, load, heat in log
        if time_ms < cut_ms
    )
    (tmp_path / "past.csv").write_text("key,time,load,heat\n" + rows)
    ingest(spec, inputs=[str(tmp_path / "past.csv")], output=str(tmp_path / "dataset"), all_origins=True)
    seeds = DatasetSeeds(spec, tmp_path / "dataset")
    assert len(seeds) == 3

    records = [
        Log(offset, orjson.dumps({"key": key, "time": time_ms, "load": load, "heat": heat}))
        for offset, (key, time_ms, load, heat) in enumerate(log)
    ]
    whole = partition(spec)
    whole.apply(whole.stage([r for r, event in zip(records, log, strict=True) if event[1] < cut_ms], NOW_MS))
    rest = [r for r, event in zip(records, log, strict=True) if event[1] >= cut_ms]
    expected = outputs(whole.stage(rest, NOW_MS))["windows"]
    # The topic overlaps the dataset: what is in both is late, and changes nothing.
    seeded = partition(spec, seeds)
    overlap = [r for r, event in zip(records, log, strict=True) if cut_ms - 60 <= event[1]]
    found = outputs(seeded.stage(overlap, NOW_MS))["windows"]
    first = {key: min(w[1] for w in expected if w[0] == key) for key in "xyz"}
    assert sorted(w for w in found if w[1] >= first[w[0]]) == sorted(expected)
    assert len(expected) > 20
    assert seeded.checkpoint(seeded.idle()).seeded


def test_a_dataset_of_other_windows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "past.csv").write_text("key,time,load,heat\n" + "".join(f"x,{10 * n},1,1\n" for n in range(50)))
    ingest(tiny_spec(), inputs=[str(tmp_path / "past.csv")], output=str(tmp_path / "dataset"), all_origins=True)
    with pytest.raises(DatasetError, match="expected windows"):
        DatasetSeeds(tiny_spec(window={"past": 9}), tmp_path / "dataset")
