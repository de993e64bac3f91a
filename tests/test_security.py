"""What the whole of the code keeps to: nothing that runs data as code, no name that leads out of a folder."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.errors import SpecError
from schemas.spec import load_spec, parse_spec
from tests.specs import tiny_spec
from tidegauge import main

ROOMS = ("schemas", "pipelines", "models", "streaming", "flows", "deploy")
CODE = [Path("tidegauge.py"), *(path for room in ROOMS for path in Path(room).rglob("*.py"))]

FORBIDDEN = {"eval", "exec", "os.system", "os.popen", "marshal.loads", "yaml.unsafe_load", "yaml.full_load"}
FORBIDDEN |= {"shutil.unpack_archive"}  # an archive may hold paths that lead out of the folder
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}

OUTSIDE = [
    "",
    ".",
    "..",
    "../up",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "%2e%2e%2fup",
    ".hidden",
    "a\0b",
    "a\nb",
    "ü",
    "x" * 101,
]


def dangers(tree: ast.AST) -> Iterator[str]:
    """What in a module could run data as code, or write where a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from PICKLES & {name.partition(".")[0] for name in names}
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in FORBIDDEN or name.endswith(".extractall"):
                yield name
            if options.get("shell", "False") != "False" or options.get("allow_pickle", "False") != "False":
                yield ast.unparse(node)
            if name == "yaml.load" and options.get("Loader") != "_StrictLoader":  # which is a SafeLoader
                yield ast.unparse(node)


def test_no_data_is_run_as_code() -> None:
    assert len(CODE) > 200
    found = {str(path): list(dangers(ast.parse(path.read_text(encoding="utf-8")))) for path in CODE}
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "archive.extractall(folder)",
    ],
)
def test_it_would_be_seen(line: str) -> None:
    assert list(dangers(ast.parse(line)))


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['true']", "a: !!python/name:os.system"])
def test_a_spec_cannot_make_objects(text: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match="expected YAML"):
        load_spec(path, {})


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_of_streams_models_and_topics_are_safe(name: str) -> None:
    """They become names of folders, files and topics."""
    document: dict[str, Any] = tiny_spec().model_dump(mode="json", exclude_defaults=True)
    for changed in (
        {"stream": document["stream"] | {"name": name}},
        {"serving": {"model": name}},
        {"serving": {"label": name}},
        {"kafka": {"group": name}},
        {"kafka": {"input": {"name": name}}},
        {"kafka": {"changelog": name}},
    ):
        with pytest.raises(SpecError):
            parse_spec(document | changed)


def test_a_key_is_never_a_file_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys are anybody's: they stand in files of a dataset, and name none."""
    keys = ["../../up", "/etc/passwd", "a\\b", "<script>alert(1)</script>", "CON", "x" * 300]
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(tiny_spec().model_dump(mode="json")))
    events = tmp_path / "in" / "events.json"
    events.parent.mkdir()
    rows = [{"key": key, "time": 10 * step, "load": 1.0, "heat": 2.0} for step in range(40) for key in keys]
    events.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    dataset = tmp_path / "out" / "dataset"
    assert (
        main(
            ["ingest", "--spec", str(spec), "--input", str(events), "--output", str(dataset), "--all-origins", "--json"]
        )
        == 0
    )
    assert set(json.loads(capsys.readouterr().out)["splits"]["all"]["windows_by_key"]) == set(keys)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "spec.yaml"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"dataset"}
    names = "".join(path.name for path in dataset.rglob("*"))
    assert not any(part in names for part in ("passwd", "script", "CON", "xxx", "up"))
