"""Versions come, go, fail and are swapped, on a running server."""

import hashlib
import json
import os
import shutil
import threading

import grpc
import pytest

from streaming.serving_protos import ModelServerConfig, ReloadConfigRequest
from tests.streaming.model_server.conftest import code_of, eventually

AVAILABLE, END = 30, 50
HALF_PLUS_THREE = "half_plus_three/123"


def test_c19_reload_waits_for_new_models_and_unloads_old_ones(playground):
    playground.publish("a", 1)
    playground.publish("b", 1, HALF_PLUS_THREE)
    playground.reload("a")
    assert playground.predict("a") == (3.0, 1)
    playground.reload("b")
    assert playground.predict("b") == (4.0, 1)
    assert code_of(lambda: playground.predict("a"))[0] == grpc.StatusCode.NOT_FOUND
    eventually(lambda: playground.states("a") == {1: (END, 0, "")})


def test_c24_a_new_version_takes_over_without_a_failed_request(playground):
    playground.publish("m", 123)
    playground.reload("m")
    answers, stop = [], threading.Event()

    def load() -> None:
        while not stop.is_set():
            answers.append(playground.predict("m"))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    playground.publish("m", 124, HALF_PLUS_THREE)
    eventually(lambda: playground.states("m") == {124: (AVAILABLE, 0, ""), 123: (END, 0, "")})
    stop.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {(3.0, 123), (4.0, 124)}
    versions = [version for _, version in answers]
    assert versions.count(124) > 0


def test_c12_labels_only_for_what_is_available(playground):
    playground.publish("m", 1)
    playground.publish("m", 2)
    everything = {"model_version_policy": {"all": {}}}
    playground.reload("m", **everything, version_labels={"stable": 1})
    assert playground.predict("m", version_label="stable") == (3.0, 1)
    code, details = code_of(lambda: playground.reload("m", **everything, version_labels={"stable": 9}))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    expected = f"Request to assign label to version 9 of model {playground.name('m')}, which is not currently available"
    assert expected in details
    assert playground.predict("m", version_label="stable") == (3.0, 1)
    playground.reload("m", **everything, version_labels={"stable": 2})
    assert playground.predict("m", version_label="stable") == (3.0, 2)


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ({}, {3}),
        ({"latest": {"num_versions": 2}}, {2, 3}),
        ({"all": {}}, {1, 2, 3}),
        ({"specific": {"versions": [1, 3]}}, {1, 3}),
    ],
    ids=["default", "latest 2", "all", "specific"],
)
def test_version_policies(playground, policy, served):
    for version in (1, 2, 3):
        playground.publish("m", version)
    (playground.folder / "m" / "not-a-version").mkdir()
    playground.reload("m", model_version_policy=policy)
    assert {v for v, (state, *_) in playground.states("m").items() if state == AVAILABLE} == served
    assert playground.predict("m") == (3.0, max(served))


def test_leading_zeros_are_a_version(playground):
    playground.publish("m", 123).rename(playground.folder / "m" / "00000123")
    playground.reload("m")
    assert playground.predict("m")[1] == 123


def test_a_version_that_is_being_copied_is_not_loaded(playground):
    playground.publish("m", 1)
    playground.reload("m")
    source, copy = playground.models / HALF_PLUS_THREE, playground.folder / "m" / "2"
    files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    slowly = threading.Event()
    for file in files:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        data = (source / file).read_bytes()
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            with (copy / file).open("ab") as stream:
                stream.write(part)
            slowly.wait(0.1)
            assert playground.predict("m") == (3.0, 1)
            assert 2 not in playground.states("m")
    eventually(lambda: playground.predict("m") == (4.0, 2))


def test_a_bad_version_leaves_the_old_one_and_shows(playground):
    playground.publish("m", 1)
    playground.reload("m")
    bad = playground.folder / "m" / "2"
    bad.mkdir()
    (bad / "saved_model.pb").write_bytes(b"this is no SavedModel")
    eventually(lambda: playground.states("m").get(2, (0, 0, ""))[0] == END)
    _, code, message = playground.states("m")[2]
    assert code != 0
    assert message
    assert playground.states("m")[1][0] == AVAILABLE
    assert playground.predict("m") == (3.0, 1)
    # Repaired in place, it is tried again without being told.
    shutil.rmtree(bad)
    playground.publish("m", 2, HALF_PLUS_THREE)
    eventually(lambda: playground.states("m")[2] == (AVAILABLE, 0, ""))
    assert playground.predict("m") == (4.0, 2)


def test_a_removed_version_gives_way_to_an_older_one(playground):
    playground.publish("m", 1)
    playground.publish("m", 2, HALF_PLUS_THREE)
    playground.reload("m")
    assert playground.predict("m") == (4.0, 2)
    shutil.rmtree(playground.folder / "m" / "2")
    eventually(lambda: playground.states("m")[2][0] == END)
    assert playground.predict("m") == (3.0, 1)


def test_a_base_path_that_vanishes_changes_nothing(playground):
    playground.publish("m", 1)
    playground.reload("m")
    (playground.folder / "m").rename(playground.folder / "gone")
    threading.Event().wait(0.4)
    assert playground.predict("m") == (3.0, 1)


@pytest.mark.parametrize("kind", ["differs", "missing", "outside", "no JSON"])
def test_checksums_are_checked_before_loading(playground, kind):
    playground.publish("m", 1)
    playground.reload("m")
    folder = playground.folder / ".2"
    shutil.copytree(playground.models / HALF_PLUS_THREE, folder)
    sums = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    extra = folder / "assets.extra"
    extra.mkdir()
    wrong = dict(sums)
    if kind == "differs":
        wrong["saved_model.pb"] = "0" * 64
    elif kind == "missing":
        wrong["variables/more"] = "0" * 64
    elif kind == "outside":
        wrong["../1/saved_model.pb"] = "0" * 64
    (extra / "model.json").write_text("{" if kind == "no JSON" else json.dumps({"files": wrong}))
    folder.rename(playground.folder / "m" / "2")
    eventually(lambda: playground.states("m").get(2, (0,))[0] == END)
    assert playground.states("m")[2][1] == grpc.StatusCode.DATA_LOSS.value[0]
    assert playground.predict("m") == (3.0, 1)
    (playground.folder / "m" / "2" / "assets.extra" / "model.json").write_text(json.dumps({"files": sums}))
    eventually(lambda: playground.predict("m") == (4.0, 2))


def test_models_outside_the_allowed_roots_are_refused(playground):
    playground.publish("m", 1)
    playground.reload("m")
    code, details = code_of(lambda: playground.reload("x", base_path=str(playground.models / "half_plus_two")))
    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert "--allowed_model_roots" in details
    way_out = str(playground.folder / "m" / ".." / ".." / ".." / "etc")
    assert code_of(lambda: playground.reload("x", base_path=way_out))[0] == grpc.StatusCode.PERMISSION_DENIED
    (playground.folder / "link").symlink_to(playground.models / "half_plus_two")
    assert code_of(lambda: playground.reload("link"))[0] == grpc.StatusCode.PERMISSION_DENIED
    # A version, or a file of one, that is a link out of the roots is found when it is loaded.
    (playground.folder / "m" / "2").symlink_to(playground.models / HALF_PLUS_THREE)
    eventually(lambda: playground.states("m").get(2, (0,))[0] == END)
    assert playground.states("m")[2][1] == grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert playground.predict("m") == (3.0, 1)


WRONG_CONFIGS = {
    "no name": [{"base_path": "/x"}],
    "twice": [{"name": "m", "base_path": "/x"}, {"name": "m", "base_path": "/y"}],
    "relative": [{"name": "m", "base_path": "x"}],
    "platform": [{"name": "m", "base_path": "/x", "model_platform": "torch"}],
    "nul": [{"name": "m", "base_path": "/x\0y"}],
}


@pytest.mark.parametrize("entries", WRONG_CONFIGS.values(), ids=WRONG_CONFIGS)
def test_a_wrong_config_changes_nothing(playground, entries):
    playground.publish("m", 1)
    playground.reload("m")
    config = ModelServerConfig()
    for entry in entries:
        config.model_config_list.config.add(**entry)
    request = ReloadConfigRequest(config=config)
    code, _ = code_of(lambda: playground.server.model.HandleReloadConfigRequest(request, timeout=30))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert playground.predict("m") == (3.0, 1)


def test_a_new_model_that_does_not_load_is_reported(playground):
    (playground.folder / "m" / "1").mkdir(parents=True)
    code, details = code_of(lambda: playground.reload("m"))
    assert code == grpc.StatusCode.UNKNOWN
    expected = f"1 servable(s) did not become available: {{{{name: {playground.name('m')} version: 1}} due to error: "
    assert expected in details


def test_another_base_path_replaces_the_version_without_a_gap(playground):
    playground.publish("m", 1)
    other = playground.publish("other", 1, HALF_PLUS_THREE).parent
    playground.reload("m")
    assert playground.predict("m") == (3.0, 1)
    playground.reload("m", base_path=str(other))
    assert playground.predict("m") == (4.0, 1)
    assert playground.states("m") == {1: (AVAILABLE, 0, "")}


def test_an_empty_config_changes_nothing(playground):
    playground.publish("m", 1)
    playground.reload("m")
    playground.server.model.HandleReloadConfigRequest(ReloadConfigRequest(), timeout=30)
    assert playground.predict("m") == (3.0, 1)


def test_reload_reports_how_metrics_grew(playground):
    playground.publish("m", 1)
    name = "/tensorflow/cc/saved_model/load_attempt_count"
    config = ModelServerConfig()
    config.model_config_list.config.add(name="m", base_path=str(playground.folder / "m"))
    request = ReloadConfigRequest(config=config, metric_names=[name, "nothing"])
    response = playground.server.model.HandleReloadConfigRequest(request, timeout=30)
    assert {metric.name: metric.int64_value_increase for metric in response.metric} == {name: 1}


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_comes_back_after_unload(playground):
    pid = playground.server.process.pid
    playground.publish("m", 1)
    for version in range(2, 5):
        playground.publish("m", version, "weighty/1")
    playground.reload("m", model_version_policy={"specific": {"versions": [1]}})
    before = resident_bytes(pid)
    playground.reload("m", model_version_policy={"all": {}})
    eventually(lambda: {state for state, *_ in playground.states("m").values()} == {AVAILABLE})
    loaded = resident_bytes(pid)
    assert loaded - before > 100e6
    playground.reload("m", model_version_policy={"specific": {"versions": [1]}})
    eventually(lambda: [state for _, (state, *_) in sorted(playground.states("m").items())] == [AVAILABLE, *[END] * 3])
    eventually(lambda: resident_bytes(pid) - before < 0.2 * (loaded - before))
