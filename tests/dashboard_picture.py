"""The pictures of the live page in the docs: `python -m tests.dashboard_picture`, or `make picture`. Some minutes.

Real parts throughout: the demo's weather, a linear model that has seen a month of winter, one that has seen three
quarters of a year and takes over from it, Kafka, the model server, `stream`, `accuracy` and `dashboard`, and Chromium.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from playwright.sync_api import sync_playwright

from deploy.local.ports import free_port
from flows.demo_parts import WEATHER_SPEC, demo_folder, demo_inputs, start_kafka
from flows.event_feed import EventFeed
from flows.history import History
from flows.live_processes import LiveProcesses
from flows.local_stack import start_model_server
from flows.replay import Sender
from schemas.spec import load_spec
from schemas.units import iso_to_ms
from streaming.stream_topics import prepare_topics
from streaming.topics import TopicAdmin

OUTPUT = Path(".tidegauge/picture")
PICTURES = Path("docs")
BEGIN, SWAP, LIVE = (iso_to_ms(day) for day in ("2013-09-18", "2013-10-16", "2013-11-04"))
TRAINED_ON = (("2013-01-01", "2013-02-01", "2013-02-15"), ("2013-01-01", "2013-09-01", "2013-10-01"))
"""Of each version the beginning and the end of its training data, and the end of its validation data."""
WATCH_S, PAUSE_S = 60, 0.25
WIDTH, HEIGHT, COLOURS = 1280, 1116, 160
BAD = (
    b'{"origin": "EWR", "time_hour": "yesterday"}',
    b'{"origin": "JFK", "time_hour": "2013-11-04T00:00:00Z", "temp": "warm"}',
)


def main() -> None:
    """Makes the pictures."""
    inputs = demo_inputs(WEATHER_SPEC, ())
    with demo_folder(OUTPUT) as environment:
        specs = [_spec_file(number, days) for number, days in enumerate(TRAINED_ON)]
        for number, spec_file in enumerate(specs):
            data, run = OUTPUT / f"data-{number}", OUTPUT / f"run-{number}"
            _tidegauge(environment, "ingest", "--spec", spec_file, "--input", inputs[0], "--output", data)
            _tidegauge(environment, "train", "--spec", spec_file, "--data", data, "--output", run)
        _tidegauge(environment, "push", "--spec", specs[0], "--run", OUTPUT / "run-0")
        spec = load_spec(specs[0], os.environ | environment)
        start_kafka(spec.kafka, OUTPUT / "state", print)
        with TopicAdmin(spec.kafka) as admin:
            prepare_topics(admin, spec, oldest_ms=None, now_ms=time.time_ns() // 1_000_000)
        start_model_server(spec, OUTPUT / "state")
        history = History.read(spec, inputs)
        with (
            Sender.to(spec, linger_ms=5, report=print) as sender,
            LiveProcesses(spec, specs[0], environment, OUTPUT / "state") as live,
        ):
            feed = EventFeed(spec, history, sender)
            feed.send_through(BEGIN)
            live.start("stream", "--from", "2013-09-18", "--wait", "60")
            live.start("accuracy", "--from", "2013-09-18")
            feed.send_through(SWAP, pause_s=0.005)
            live.wait_until_caught_up()
            _tidegauge(environment, "push", "--spec", specs[1], "--run", OUTPUT / "run-1")
            time.sleep(8)  # the server looks for new versions now and then
            feed.send_through(LIVE, pause_s=0.005)
            for payload in BAD:
                sender.send(payload, key=b"EWR", time_ms=LIVE)
            live.wait_until_caught_up()
            with feed.going_on(PAUSE_S, 4 * 10**9):
                _photograph(specs[0], environment, live)


def _spec_file(number: int, days: tuple[str, str, str]) -> Path:
    document = yaml.safe_load(WEATHER_SPEC.read_text())
    begin, end, validation = days
    document["split"] = {"by": "dates", "train": [begin, end], "validation": [end, validation]}
    document["split"]["test"] = [validation, "2013-11-01"]
    document["model"] = {"family": "linear", "scaling": "shared"}
    document["uncertainty"] = {"intervals": [0.5, 0.9]}
    document["training"] = {}
    path = OUTPUT / f"spec-{number}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _tidegauge(environment: Mapping[str, str], *arguments: str | Path) -> None:
    command = [sys.executable, "-m", "tidegauge", *map(str, arguments)]
    subprocess.run(command, env=os.environ | environment, check=True)


def _photograph(spec_file: Path, environment: Mapping[str, str], live: LiveProcesses) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tidegauge", "dashboard", "--spec", str(spec_file), "--port", str(port)]
    for address in live.addresses():
        command += ["--metrics", address]
    with subprocess.Popen(command, env=os.environ | environment) as process, sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        time.sleep(WATCH_S)
        for name, width, scheme in (
            ("dashboard", WIDTH, "light"),
            ("dashboard-dark", WIDTH, "dark"),
            ("phone", 390, "light"),
            ("phone-dark", 390, "dark"),
        ):
            page = browser.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme=scheme)
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("#error-chart .js-line", state="attached")
            page.wait_for_timeout(3_000)
            if width == WIDTH:
                _save(page.screenshot(), PICTURES / f"{name}.png")
            page.screenshot(path=OUTPUT / f"{name}-whole.png", full_page=True)  # to look at
        browser.close()
        process.terminate()


def _save(picture: Any, path: Path) -> None:
    """Saves it with few colours, which halves it."""
    whole = OUTPUT / path.name
    whole.write_bytes(picture)
    Image.open(whole).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
