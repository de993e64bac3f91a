"""Two versions on the real model server: one answers, and another is asked beside it, as a shadow or as a canary."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.live_evidence import gather
from flows.model_config import serve_versions
from schemas.probation_spec import Probation
from schemas.spec import Spec
from streaming.serving_client import ServingClient
from tests.e2e.conftest import SHIFT, LiveStream, Message, Models, stream_spec
from tests.e2e.test_accuracy import score
from tests.e2e.test_stream import expected_windows, history, send, wait_for_predictions

MODEL = "two-versions"


def serving(models: Models) -> dict[str, str]:
    return {"address": models.address, "model": MODEL, "config_file": str(models.folder / "models.config")}


@pytest.fixture(scope="module", autouse=True)
def two_versions(models: Models, shifted: Path) -> Spec:
    """The server has versions 1 and 2 of another model too, `stable` and `canary`; 2 forecasts `SHIFT` more."""
    base = models.folder.parent
    spec = stream_spec("any", serving=serving(models), paths={"models": str(base)})
    shutil.copytree(models.folder / "1", base / MODEL / "1")
    shutil.copytree(shifted, base / MODEL / "2")
    serve_versions(spec, 2, {"stable": 1, "canary": 2})
    with ServingClient(spec) as client:
        until = time.monotonic() + 60
        while True:
            try:
                client.wait_until_available(30)
                assert client.versions_of_ours() == [2, 1]
                assert (client.version_of_label("stable"), client.version_of_label("canary")) == (1, 2)
            except Exception:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
            else:
                return spec


def in_share(name: str, share: float, purpose: bytes) -> bool:
    digest = hashlib.blake2b(name.encode(), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest) / 2**64 < share


def by_role(messages: list[Message]) -> dict[str, dict[tuple[str, int], Message]]:
    found: dict[str, dict[tuple[str, int], Message]] = {"champion": {}, "canary": {}, "shadow": {}}
    for message in messages:
        document = message.document
        place = (document["key"], document["origin_ms"])
        assert place not in found[document["role"]]
        found[document["role"]][place] = message
    return found


def digests(messages: dict[tuple[str, int], Message]) -> dict[tuple[str, int], str]:
    return {place: message.document["window_digest"] for place, message in messages.items()}


def mean(message: Message) -> float:
    value: float = message.document["targets"][0]["mean"][0]
    return value


def test_an_older_version_predicts_a_share_of_the_windows_too(
    live_with: Callable[..., LiveStream], models: Models
) -> None:
    """In the same transactions: killed and started again, every window is there once for each role."""
    live = live_with(serving=serving(models) | {"shadow": {"share": 0.5}})
    events = history(60, 900, "xyz")
    send(live, events[:500])
    process = live.start("--progress")
    wait_for_predictions(live)
    process.kill()
    process.wait()
    send(live, events[500:])
    counts = live.run_to_end()

    messages = live.predictions()
    ids = {message.headers["ce_id"] for message in messages}
    assert len(ids) == len(messages)
    found = by_role(messages)
    windows = expected_windows(live)
    assert digests(found["champion"]) == windows
    assert {message.document["model"]["version"] for message in found["champion"].values()} == {2}
    share = {place for place in windows if in_share(f"{place[0]}@{place[1] // 10}", 0.5, b"shadow")}
    assert 0.3 < len(share) / len(windows) < 0.7
    assert set(found["shadow"]) <= share
    assert counts["shadow"] > 0
    assert len(found["shadow"]) >= counts["shadow"]
    for place, shadow in found["shadow"].items():
        assert shadow.document["model"]["version"] == 1
        assert shadow.document["window_digest"] == windows[place]
        assert mean(found["champion"][place]) == pytest.approx(mean(shadow) + SHIFT)
        assert shadow.timestamp == found["champion"][place].timestamp

    # Scored as the actual values come, the two are pairs: of each shadow's window the champion's score is there too.
    score(live)
    evidence = gather(live.spec, Probation(windows=10_000), new=2, old=1, since={})
    assert evidence.windows > 20
    assert evidence.broken == 0
    assert evidence.comparison is not None
    assert evidence.comparison.new != evidence.comparison.old


def test_a_canary_answers_for_a_share_of_the_keys(live_with: Callable[..., LiveStream], models: Models) -> None:
    """Each window is answered once, by one of the two labels; the older one shadows what the canary answers."""
    choice = {"label": "stable", "canary": {"label": "canary", "share": 0.5}, "shadow": {"share": 1.0}}
    live = live_with(serving=serving(models) | choice)
    keys = "abcdefgh"
    send(live, history(61, 900, keys))
    counts = live.run_to_end()
    found = by_role(live.predictions())
    theirs = {key for key in keys if in_share(key, 0.5, b"canary")}
    assert 0 < len(theirs) < len(keys)
    windows = expected_windows(live)
    assert digests(found["canary"]) == {place: digest for place, digest in windows.items() if place[0] in theirs}
    assert digests(found["champion"]) == {place: digest for place, digest in windows.items() if place[0] not in theirs}
    assert {message.document["model"]["version"] for message in found["champion"].values()} == {1}
    assert {message.document["model"]["version"] for message in found["canary"].values()} == {2}
    assert set(found["shadow"]) <= set(found["canary"])
    assert len(found["shadow"]) == counts["shadow"] == len(found["canary"]) - counts["shadow_missed"]
    assert counts["predictions"] + counts["canary"] == len(windows)
