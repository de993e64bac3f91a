"""The live page in a real browser, beside a real Kafka: headless Chromium, where the machine has one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from kafka import KafkaProducer

from schemas.spec import Spec
from schemas.trigger import Trigger
from streaming.stream_topics import prepare_accuracy_topics, prepare_topics
from streaming.topics import TopicAdmin, connect
from tests.conftest import Kafka
from tests.specs import tiny_spec
from tests.streaming.dashboard.records import accuracy, event, prediction, scored
from tests.streaming.test_partition import Log

HOSTILE = "<script>window.pwned=1</script><img src=x onerror='window.pwned=2'>"
PATIENCE_MS = 20_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("the page is tested in Chromium, which this machine has not (Debian: apt install chromium)")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        # As root Chromium has no sandbox of its own.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()


@dataclass
class Shown:
    """A stream whose records the test writes, the page's process, and the page in the browser."""

    spec: Spec
    process: subprocess.Popen[str]
    page: Any
    complaints: list[str] = field(default_factory=list)
    offset: int = 0

    def send(self, records: dict[str, Sequence[Log]]) -> None:
        """Writes records to topics, all of one topic in order."""
        producer = connect(KafkaProducer, self.spec.kafka.bootstrap_servers, linger_ms=5)
        for topic, some in records.items():
            for one in some:
                place = {"partition": 0, "timestamp_ms": one.timestamp, "headers": list(one.headers)}
                producer.send(topic, key=one.key, value=one.value, **place)
        producer.flush(timeout=30)
        producer.close(timeout=5)

    def send_steps(self, count: int, version: int, level: float) -> None:
        """So many more steps of both keys, forecast by a version: every forecast is at one level."""
        spec, first = self.spec, self.offset
        self.offset += count
        steps = range(first, self.offset)
        keys = ("plain", HOSTILE)
        self.send(
            {
                spec.topics.input.name: [event(0, key, 10 * n, level + n % 3) for n in steps for key in keys],
                spec.topics.predictions.name: [
                    prediction(spec, 0, key, 10 * n, [level, level + 1], version=version) for n in steps for key in keys
                ],
                spec.topics.accuracy.name: [
                    accuracy(spec, 0, scored(spec, 10 * n, [1, -2], version=version)) for n in steps
                ],
            }
        )

    def wait_for(self, text: str, place: str = "body") -> None:
        """Waits until a place of the page has a text."""
        self.page.wait_for_function(
            "([place, text]) => document.querySelector(place).innerText.includes(text)",
            arg=[place, text],
            timeout=PATIENCE_MS,
        )


@pytest.fixture
def shown(kafka: Kafka, browser: Any, tmp_path: Path) -> Iterator[Shown]:
    name = f"test-{uuid.uuid4().hex[:12]}"
    spec = tiny_spec(
        stream={"name": name, "description": HOSTILE},
        window={"past": 3, "horizon": 2},
        kafka={"bootstrap_servers": kafka.bootstrap},
    )
    spec_file = tmp_path / "spec.yaml"
    spec_file.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_defaults=True)))
    with TopicAdmin(kafka.bootstrap) as admin:
        prepare_topics(admin, spec, oldest_ms=None, now_ms=time.time_ns() // 1_000_000)
        prepare_accuracy_topics(admin, spec)
    command = [sys.executable, "-m", "tidegauge", "dashboard", "--spec", str(spec_file), "--port", "0", "--json"]
    with subprocess.Popen([*command, "--metrics", "127.0.0.1:1"], stdout=subprocess.PIPE, text=True) as process:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
        try:
            assert process.stdout is not None
            said = "".join(iter(process.stdout.readline, "}\n")) + "}"
            shown = Shown(spec, process, context.new_page())
            note = shown.complaints.append
            shown.page.on("console", lambda said: note(said.text) if said.type in ("error", "warning") else None)
            shown.page.on("pageerror", lambda error: note(str(error)))
            shown.send_steps(40, 1, 5.0)
            shown.page.goto(json.loads(said)["address"])
            yield shown
        finally:
            context.close()
            process.terminate()
            process.wait(timeout=20)


def curves(page: Any, chart: str) -> list[str]:
    """The paths of a chart's lines, as they are drawn."""
    found: list[str] = page.eval_on_selector_all(
        f"#{chart} .scatterlayer .js-line", "all => all.map(e => e.getAttribute('d'))"
    )
    return found


def test_the_page(shown: Shown) -> None:
    page, spec = shown.page, shown.spec
    shown.wait_for("v1", "#tiles")
    page.wait_for_selector("#forecast-chart .scatterlayer .js-line", state="attached", timeout=PATIENCE_MS)
    page.wait_for_selector("#error-chart .scatterlayer .js-line", state="attached", timeout=PATIENCE_MS)
    assert page.inner_text("#description") == HOSTILE
    assert "127.0.0.1:1" in page.inner_text("#endpoints")  # nobody is there, and the rest goes on
    assert "does not answer" in page.inner_text("#sentence")

    # What comes is drawn.
    before = curves(page, "forecast-chart")
    headers = [("tidegauge.error.reason", b"type"), ("tidegauge.error.detail", HOSTILE.encode())]
    drift = Trigger(spec.stream.name, "input_drift", 100, HOSTILE, "jensen_shannon", 0.7, 0.5, 1, "load")
    shown.send(
        {
            spec.topics.dead_letters.name: [Log(0, b"x", 5, headers=headers)],
            spec.topics.triggers.name: [Log(0, drift.record(), 5)],
        }
    )
    shown.send_steps(20, 2, 9.0)
    shown.wait_for("v2", "#tiles")
    shown.wait_for("type", "#letters")
    shown.wait_for(HOSTILE, "#triggers")
    assert curves(page, "forecast-chart") != before
    assert page.inner_text("#letters").count(HOSTILE) == 1

    # Another key, by the keyboard alone; its name is a text.
    page.get_by_role("combobox", name="Key", exact=True).focus()
    for press, key in (("ArrowDown", "plain"), ("ArrowUp", HOSTILE)):
        page.keyboard.press(press)
        shown.wait_for(f", {key}", "#forecasts-title")
    shown.wait_for("2 steps ahead", "#lead")
    page.click("summary")
    shown.wait_for("10", "#horizon")  # the second step of the next horizon
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert page.evaluate("window.pwned") is None
    assert page.evaluate(
        "[...document.querySelectorAll('[role=img]:not([hidden])')].every(e => e.ariaLabel || !e.firstChild)"
    )
    assert page.evaluate("[...document.querySelectorAll('select, input')].every(e => e.labels.length)")

    # In the dark, and on a phone.
    colours = """[document.body, document.querySelector("#forecast-chart .xtick text")]
        .map((element) => getComputedStyle(element)).map(({ backgroundColor, fill }) => [backgroundColor, fill])"""
    light = page.evaluate(colours)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(500)
    (ground, _), (_, ticks) = page.evaluate(colours)
    assert ground != light[0][0]
    assert ticks != light[1][1]
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert shown.complaints == []


@pytest.mark.slow
def test_a_broker_that_goes_and_comes_back(shown: Shown, kafka: Kafka) -> None:
    shown.wait_for("v1", "#tiles")
    kafka.node.stop()
    try:
        shown.wait_for("The broker does not answer", "#sentence")
        assert shown.page.get_attribute("#status", "data-level") == "bad"
        shown.wait_for("what is shown is from before", "#sources-note")
        assert curves(shown.page, "forecast-chart")
    finally:
        kafka.start()
    shown.send_steps(20, 2, 9.0)
    shown.wait_for("v2", "#tiles")
    shown.page.wait_for_function(
        "() => !document.querySelector('#sentence').innerText.includes('broker')", timeout=PATIENCE_MS
    )
    assert shown.complaints == []
