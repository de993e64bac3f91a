"""Runners: the same input gives the same bytes on each, and a mistake in Beam's options is a clear line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest

from deploy.local.flink.cluster import FlinkCluster, Ports, beam_options
from deploy.local.process import Running
from deploy.local.state import claim
from pipelines.beam_job import parse_options, run_pipeline
from pipelines.ingest import build_job, ingest
from pipelines.sources.files import InputFile
from schemas.errors import InputError
from tests.conftest import SHARED_STATE
from tests.pipelines.test_ingest import folder_bytes
from tests.pipelines.test_sources import random_rows, spec_of, write_csv, write_parquet

SPEC = spec_of(dataset={"shards": 2})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("inputs")
    rows = random_rows(2000)
    write_parquet(folder / "many.parquet", rows[:1500])
    write_csv(folder / "few.csv", [*rows[1500:], rows[0] | {"load": "broken"}])
    return [str(folder / "many.parquet"), str(folder / "few.csv")]


@pytest.fixture(scope="module")
def expected(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("expected") / "dataset"
    ingest(SPEC, inputs=inputs, output=str(folder))
    return folder_bytes(folder)


def run_on(beam_args: list[str], inputs: list[str], folder: Path) -> dict[str, bytes]:
    ingest(SPEC, inputs=inputs, output=str(folder / "dataset"), beam_args=beam_args)
    assert [path.name for path in folder.iterdir()] == ["dataset"]
    return folder_bytes(folder / "dataset")


@pytest.mark.parametrize("mode", ["multi_threading", pytest.param("multi_processing", marks=pytest.mark.slow)])
def test_several_workers(mode: str, inputs: list[str], expected: dict[str, bytes], tmp_path: Path) -> None:
    options = ["--direct_num_workers=2", f"--direct_running_mode={mode}"]
    assert run_on(options, inputs, tmp_path) == expected


@pytest.fixture(scope="module")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    cluster = FlinkCluster(claim(tmp_path_factory.mktemp("flink")), jars_dir=claim(SHARED_STATE) / "jars" / "flink")
    yield cluster.start(Ports(0, 0, 0))
    assert cluster.stop()
    assert cluster.running() is None


# When a job has ended, the job server hangs up on a thread of Beam's that still reads.
hangs_up = pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")


@hangs_up
@pytest.mark.slow
def test_flink(flink: Running, inputs: list[str], expected: dict[str, bytes], tmp_path: Path) -> None:
    """A real session cluster, by way of Beam's job server; the second job finds it as the first has left it."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert run_on(beam_options(flink), inputs, tmp_path / name) == expected


@hangs_up
@pytest.mark.slow
def test_a_bad_file_is_the_same_error_on_flink(flink: Running, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(b"PNG")
    with pytest.raises(InputError, match=r"bad\.csv:1: expected a CSV header"):
        ingest(
            SPEC, inputs=[str(tmp_path / "bad.csv")], output=str(tmp_path / "dataset"), beam_args=beam_options(flink)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"]


@pytest.mark.slow
def test_prism(inputs: list[str], expected: dict[str, bytes], tmp_path: Path) -> None:
    prism = os.environ.get("PRISM") or shutil.which("prism")
    if prism is None:
        pytest.skip("there is no prism on the PATH, and PRISM names none")
    options = ["--runner=PrismRunner", f"--prism_location={prism}", "--environment_type=LOOPBACK"]
    assert run_on(options, inputs, tmp_path) == expected


OPTION_SETS = {
    "flink": "--runner=FlinkRunner --flink_master=flink:8081 --flink_version=2.0 --environment_type=PROCESS "
    '--environment_config={"command":"/opt/boot"} --parallelism=64 --checkpointing_interval=60000',
    "spark": "--runner=SparkRunner --spark_master_url=spark://spark:7077 --spark_version=3 --environment_type=DOCKER "
    "--environment_config=registry/tidegauge:1",
    "dataflow": "--runner=DataflowRunner --project=acme --region=europe-west1 --temp_location=gs://acme/tmp "
    "--sdk_container_image=registry/tidegauge:1 --num_workers=8 --max_num_workers=32",
}


@pytest.mark.parametrize("name", OPTION_SETS)
def test_the_job_graph_of_a_remote_runner(name: str, tmp_path: Path) -> None:
    """What would be submitted: portable, with four shuffles, and nothing but references in them."""
    options = parse_options(OPTION_SETS[name].split())
    pipeline = beam.Pipeline(runner=beam.runners.runner.PipelineRunner(), options=options)
    build_job(pipeline, SPEC, [InputFile(0, "/shared/x.parquet")], tmp_path)
    proto = pipeline.to_runner_api()
    names = {transform.unique_name for transform in proto.components.transforms.values()}
    assert {"GroupPartitions", "GroupShards", "GroupDeadLetters", "GroupReports"} <= names
    coders = {proto.components.coders[name].spec.urn for name in proto.components.coders}
    assert "beam:coder:kv:v1" in coders
    assert proto.root_transform_ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--direct_num_worker=2"], r"--direct_num_worker=2: .*did you mean --direct_num_workers\?"),
        (["--runner=FlinkRunner", "--flink_mster=h:1"], r"did you mean --flink_master\?"),
        (["--direct_num_workers=two"], "argument --direct_num_workers: invalid int value: 'two'"),
        (["--nonsense=1"], "--nonsense=1: expected an option of Beam's"),
        (["events.csv"], r"events\.csv: expected an option of Beam's"),
        (["--runner=Flinkrunner2"], "Unexpected pipeline runner: Flinkrunner2"),
    ],
)
def test_a_misspelt_option_is_a_clear_error(options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_pipeline(lambda pipeline: pipeline | beam.Create([0]), options)


def test_a_job_server_may_have_options_of_its_own() -> None:
    parse_options(["--runner=PortableRunner", "--job_endpoint=127.0.0.1:8099", "--object_reuse=true"])
