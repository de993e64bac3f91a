"""The dataset folder: nothing half-written, and nothing left behind by jobs that died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.dataset_writer import building
from schemas.dataset import COMPLETED_FILE


def finish(output: Path, text: str, *, overwrite: bool = False) -> None:
    with building(output, overwrite=overwrite) as folder:
        (folder / COMPLETED_FILE).write_text(text)


def test_leftovers_of_dead_jobs_go(tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    for name in ("dataset.tmp-dead", "dataset.old-dead", "dataset.tmp-dying", "other.tmp-dead"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / "dataset.tmp-dying" / ".lock").write_text("")
    output.mkdir()
    (output / COMPLETED_FILE).write_text("old")
    finish(output, "new", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "other.tmp-dead"]
    assert (output / COMPLETED_FILE).read_text() == "new"
    assert [path.name for path in output.iterdir()] == [COMPLETED_FILE]


def test_a_dataset_that_was_put_aside_by_a_dead_job_comes_back(tmp_path: Path) -> None:
    aside = tmp_path / "dataset.old-dead"
    aside.mkdir()
    (aside / COMPLETED_FILE).write_text("old")
    with pytest.raises(ZeroDivisionError), building(tmp_path / "dataset", overwrite=True):
        raise ZeroDivisionError
    assert (tmp_path / "dataset" / COMPLETED_FILE).read_text() == "old"


def test_a_living_job_is_left_alone(tmp_path: Path) -> None:
    with building(tmp_path / "dataset", overwrite=True) as first:
        finish(tmp_path / "dataset", "second")
        (first / COMPLETED_FILE).write_text("first")
    assert (tmp_path / "dataset" / COMPLETED_FILE).read_text() == "first"


def test_a_killed_job_leaves_what_was_there_and_the_next_one_clears_up(tmp_path: Path) -> None:
    """An ingest that is killed in the middle of its work; the old dataset stays, and a new run is as if alone."""
    output = tmp_path / "dataset"
    finish(output, "old")
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from pipelines.dataset_writer import building\n"
        "with building(Path(sys.argv[1]), overwrite=True) as folder:\n"
        "    (folder / 'spill').mkdir()\n"
        "    print('building', flush=True)\n"
        "    time.sleep(60)\n"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", script, str(output)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert job.stdout is not None
    with job.stdout:
        assert job.stdout.readline() == b"building\n"
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    assert len(list(tmp_path.glob("dataset.tmp-*"))) == 1
    assert (output / COMPLETED_FILE).read_text() == "old"
    began = time.monotonic()
    finish(output, "new", overwrite=True)
    assert time.monotonic() - began < 5
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert (output / COMPLETED_FILE).read_text() == "new"
