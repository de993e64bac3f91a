"""The command line: every verb explains itself, and a user's mistake is one clear line and exit code 2."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tidegauge import app, main

WEATHER = "deploy/specs/weather.yaml"
README = Path("README.md").read_text()
HEADER = "origin,time_hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib\n"
VERBS = sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> list[str]:
    """Runs a verb that must fail with exit code 2; what it said on the error stream."""
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("tidegauge: ")]


@pytest.fixture
def changed_spec(tmp_path: Path) -> Callable[..., str]:
    def change(section: str, **fields: object) -> str:
        document = yaml.safe_load(Path(WEATHER).read_text())
        document[section] = document.get(section, {}) | fields
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(document))
        return str(path)

    return change


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_stands_in_the_readme(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"Usage: tidegauge {verb}" in capsys.readouterr().out
    assert f"`tidegauge {verb}" in README


def test_readme_names_no_verb_that_is_not_there() -> None:
    assert set(re.findall(r"`tidegauge ([a-z-]+)", README)) <= set(VERBS)


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Tidegauge spec"


def test_an_unknown_field(changed_spec: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    spec = changed_spec("window", horizn=3)
    [line] = complaint(capsys, "ingest", "--spec", spec, "--input", "x.csv", "--output", "out")
    assert line == f"tidegauge: {spec}: $.window.horizn: unknown field; did you mean 'horizon'?"


def test_a_horizon_of_zero(changed_spec: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    spec = changed_spec("window", horizon=0)
    [line] = complaint(capsys, "train", "--spec", spec, "--data", "data", "--output", "run")
    assert line == f"tidegauge: {spec}: $.window.horizon: expected greater than or equal to 1, got 0"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.csv", None, "none.csv: expected an input file, got no such file"),
        (
            "columns.csv",
            b"origin,time_hour,temp\nEWR,2013-01-01T06:00:00Z,39\n",
            "expected a CSV header with the columns",
        ),
        ("picture.csv", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00", "expected a CSV header with the columns"),
        ("empty.csv", b"", "expected a CSV header with the columns"),
        ("cut.csv.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\x4b", "expected whole gzip data"),
    ],
)
def test_a_file_that_cannot_be_used(
    name: str, content: bytes | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    [line] = complaint(capsys, "ingest", "--spec", WEATHER, "--input", str(path), "--output", str(tmp_path / "dataset"))
    assert expected in line
    assert not (tmp_path / "dataset").exists()


def test_bad_records_are_counted_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text in a numeric column, a time that does not parse, the year 9999: dead letters, and the job goes on."""
    rows = [
        f"EWR,2013-0{1 + hour // 672}-{1 + hour // 24 % 28:02}T{hour % 24:02}:00:00Z,3{hour % 9},1,1,1,1,NA,0,1,1"
        for hour in range(1_300)
    ]
    bad = [
        "EWR,2013-03-01T00:00:00Z,warm,1,1,1,1,NA,0,1,1",
        "EWR,yesterday,30,1,1,1,1,NA,0,1,1",
        "EWR,9999-01-01T00:00:00Z,30,1,1,1,1,NA,0,1,1",
    ]
    path = tmp_path / "weather.csv"
    path.write_text(HEADER + "\n".join([*rows[:700], *bad, *rows[700:]]) + "\n")
    dataset = tmp_path / "dataset"
    assert main(["ingest", "--spec", WEATHER, "--input", str(path), "--output", str(dataset), "--json"]) == 0
    events = json.loads(capsys.readouterr().out)["events"]
    assert events["rows"] == 1_303 == events["used"] + events["duplicate"] + events["late"] + events["dead"]
    assert events["dead_by_reason"] == {"type": 1, "time": 1, "time_range": 1}
    [letters] = (dataset / "dead-letters").iterdir()
    kept = [json.loads(line) for line in letters.read_text().splitlines()]
    assert [letter["text"] for letter in kept] == bad
    assert [letter["source"].rpartition(":")[2] for letter in kept] == ["702", "703", "704"]
    assert main(["inspect", str(dataset)]) == 0
    assert "dead, time_range: 1" in capsys.readouterr().out


def test_what_is_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [line] = complaint(capsys, "train", "--spec", WEATHER, "--data", str(tmp_path), "--output", str(tmp_path / "run"))
    assert "is no complete dataset" in line
    assert complaint(capsys, "inspect", str(tmp_path / "nowhere"))


def test_a_broker_that_is_down(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TIDEGAUGE_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    [line] = complaint(capsys, "stream", "--spec", WEATHER)
    assert line.startswith("tidegauge: broker 127.0.0.1:1 does not answer")


def test_a_server_that_is_down(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TIDEGAUGE_SERVING__ADDRESS", "127.0.0.1:1")
    data = ["--input", "deploy/data/weather.csv.gz", "--key", "EWR"]
    [line] = complaint(capsys, "predict", "--spec", WEATHER, *data)
    assert line.startswith("tidegauge: model 'nyc-weather' at 127.0.0.1:1: UNAVAILABLE")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--input", "deploy/data/weather.csv.gz"], "expected a key of EWR, JFK, LGA, got None (--key)"),
        (["--input", "deploy/data/weather.csv.gz", "--key", "SFO"], "expected a key of EWR, JFK, LGA, got 'SFO'"),
        (["--raw", "README.md"], "README.md: expected an .npz file of arrays"),
    ],
)
def test_predict_says_what_it_needs(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    [line] = complaint(capsys, "predict", "--spec", WEATHER, *arguments)
    assert expected in line


@pytest.mark.parametrize(
    "argv",
    [
        ["ingest", "--spec", WEATHER],
        ["strem", "--spec", WEATHER],
        ["predict", "--spec", WEATHER],
        ["verify", "--spec", WEATHER, "--data", "x"],
        ["stream", "--spec", WEATHER, "--form", "latest"],
    ],
)
def test_mistakes_in_the_arguments(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert "Error: " in said
    assert "Traceback" not in said


@pytest.mark.parametrize("value", ["fast", "0x", "-5x", "60"])
def test_a_speed_that_is_none(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    [line] = complaint(capsys, "replay", "--spec", WEATHER, "--input", "x.csv", f"--speed={value}")
    assert line == f"tidegauge: --speed: expected a factor such as 60x, or max, got '{value}'"


def test_a_start_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    [line] = complaint(capsys, "stream", "--spec", WEATHER, "--from", "monday")
    assert line == "tidegauge: --from: expected latest, earliest or an ISO time, got 'monday'"


def test_the_door_is_light() -> None:
    """Help and mistakes load no heavy library."""
    program = "import sys, tidegauge; sys.exit(len({'numpy', 'kafka', 'tensorflow', 'apache_beam'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_package_that_an_installation_has_not() -> None:
    """As in the streaming image, which reads no files."""
    program = "import sys; sys.modules['pyarrow'] = None; from tidegauge import main; sys.exit(main())"
    replay = ["replay", "--spec", WEATHER, "--input", "x.csv"]
    done = subprocess.run([sys.executable, "-c", program, *replay], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("tidegauge: expected the package pyarrow, which is not installed here: pip install")
