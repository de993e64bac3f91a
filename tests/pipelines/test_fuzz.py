"""Broken inputs: each ends in a clear error or in dead letters; no row is lost and no traceback is shown."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.history import History
from pipelines.ingest import ingest
from schemas.errors import InputError
from tests.pipelines.test_sources import FORMATS, random_rows, spec_of

HEADER = b"time,key,load,heat\n"
GOOD = b"".join(b"%d,a,1.5,2\n" % (10 * step) for step in range(300))

CORPUS = {
    "empty": b"",
    "header only": HEADER,
    "blank lines": b"\n\r\n\n",
    "a byte order mark": b"\xef\xbb\xbf" + HEADER + GOOD,
    "UTF-16": (HEADER + GOOD).decode().encode("utf-16"),
    "Latin-1 keys": HEADER + GOOD + b"5,caf\xe9,1,2\n",
    "mixed types": HEADER + GOOD + b"5,a,true,2\n6,a,[1],2\n7,a,2024-01-01,2\n",
    "NaN and infinities": HEADER + GOOD + b"5,a,NaN,inf\n6,a,-inf,nan\n7,a,1e400,2\n",
    "years 0 and 9999": HEADER + GOOD + b"-62167219200000,a,1,2\n253402300799999,a,1,2\n0000-01-01,a,1,2\n",
    "embedded NULs": HEADER + GOOD + b"5,a\0b,1,2\n6,a,1\0,2\n\0\0\0\n",
    "only NULs": bytes(4096),
    "an open quote": HEADER + GOOD + b'5,"a,1,2\n' + GOOD,
    "old Mac line ends": (HEADER + GOOD).replace(b"\n", b"\r"),
    "too few and too many cells": HEADER + b"5,a\n5,a,1,2,3,4\n" + GOOD,
    "no last line end": HEADER + GOOD + b"5,a,1",
    "a file of another kind": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "half a gzip": gzip.compress(HEADER + GOOD)[:200],
    "gzip and more": gzip.compress(HEADER + GOOD) + b"more",
    "gzip twice": gzip.compress(HEADER) + gzip.compress(GOOD),
}


@pytest.mark.parametrize("name", CORPUS)
def test_a_broken_file_is_an_error_or_dead_letters(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, output = tmp_path / "broken.csv", tmp_path / "dataset"
    path.write_bytes(CORPUS[name])
    try:
        manifest = ingest(spec_of(), inputs=[str(path)], output=str(output), all_origins=True)
    except InputError as exc:
        message = str(exc)
    else:
        events = manifest.events
        assert events.rows == events.used + events.duplicate + events.late + events.dead
        letters = [
            json.loads(line) for file in output.glob("dead-letters/*") for line in file.read_bytes().splitlines()
        ]
        assert len(letters) == events.dead
        assert all(letter["source"].startswith(f"{path}:") and letter["detail"] for letter in letters)
        message = ""
    if message:
        assert message.startswith(str(path))
        assert not output.exists()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["mixed types", "embedded NULs", "years 0 and 9999", "NaN and infinities"])
def test_good_rows_beside_bad_ones_are_used(name: str, tmp_path: Path) -> None:
    (tmp_path / "broken.csv").write_bytes(CORPUS[name])
    history = History.read(spec_of(), [str(tmp_path / "broken.csv")])
    assert len(history) >= 300
    assert len(history) + len(history.dead) == CORPUS[name].count(b"\n") - 1
    assert history.dead


@pytest.mark.parametrize("name", FORMATS)
def test_flipped_bytes_are_an_error_or_dead_letters(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("fuzz") / name
    FORMATS[name](path, random_rows(60))
    whole = path.read_bytes()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4),
        st.integers(0, len(whole)),
    )
    def check(flips: list[tuple[int, int]], cut: int) -> None:
        data = bytearray(whole)
        for at, value in flips:
            data[at] = value
        path.write_bytes(data[:cut] if cut % 3 == 0 else data)
        try:
            history = History.read(spec_of(), [str(path)])
        except InputError as exc:
            said = [str(exc)]
        else:
            said = [row.source for row in history.dead]
        assert all(text.startswith(str(path)) and "\n" not in text for text in said)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["long.csv.gz", "long.jsonl.gz"])
def test_a_line_of_a_gigabyte_is_a_dead_letter(name: str, tmp_path: Path) -> None:
    """Never in memory: its head, size and hash are all that is kept."""
    good = [{"time": 10 * step, "key": "a", "load": 1.0, "heat": None} for step in range(100)]
    lines = [f"{row['time']},a,1.0,".encode() for row in good]
    if "json" in name:
        lines = [json.dumps(row).encode() for row in good]
    with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
        file.write(HEADER if "csv" in name else b"")
        file.write(b"\n".join(lines[:50]) + b"\n")
        for _ in range(1024):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + b"\n".join(lines[50:]) + b"\n")
    script = (
        "import resource, sys\n"
        "from flows.history import History\n"
        "from tests.specs import tiny_spec\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "history = History.read(tiny_spec(), [sys.argv[1]])\n"
        "[dead] = history.dead\n"
        "print(len(history), dead.size, dead.source.rpartition(':')[2], len(dead.payload))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / name)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    found, grown = answer.stdout.splitlines()
    assert found == f"100 {1 << 30} {52 if 'csv' in name else 51} {64 << 10}"
    assert int(grown) * 1024 < 200 << 20
