"""The metrics of a stream's processes, read from their endpoints every few seconds."""

from __future__ import annotations

import http.client
import math
import ssl
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from schemas.errors import InputError

TIMEOUT_S = 2.0
MOST_BYTES = 4 * 2**20
MOST_WORDS = 300
_AT_ONCE = 8
_PREFIXES = ("tidegauge_", ":tensorflow:serving:request_count")
_KINDS = {
    "tidegauge_events_in_total": "consumer",
    "tidegauge_scored_predictions_total": "accuracy",
    ":tensorflow:serving:request_count": "model server",
}
"""What a process is, by a metric that no other one has."""

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a process serves its metrics."""

    url: str
    secure: bool
    address: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Reads `HOST:PORT`, whose path is /metrics, or a URL.

        Raises:
          InputError: it is neither.
        """
        url = text if "://" in text else f"http://{text}"
        try:
            parts = urlsplit(url)
            known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
        except ValueError:
            known = False
        if not known or any(character <= " " for character in url):
            raise InputError(f"--metrics: expected HOST:PORT or a URL of http or https, got '{text}'")
        path = parts.path.rstrip("/") or "/metrics"
        query = f"?{parts.query}" if parts.query else ""
        return cls(f"{parts.scheme}://{parts.netloc}{path}{query}", parts.scheme == "https", parts.netloc, path + query)


@dataclass(frozen=True, slots=True)
class Scrape:
    """What an endpoint said; `problem` is why it said nothing, and `unready` why its process is not ready."""

    url: str
    kind: str = "unknown"
    problem: str = ""
    unready: str = ""
    samples: Mapping[str, Sequence[tuple[Labels, float]]] = field(default_factory=dict)

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return sum(value for _, value in self._of(name, labels))

    def highest(self, name: str) -> float | None:
        """The greatest of a metric's samples; None where there is none."""
        return max((value for _, value in self._of(name, {})), default=None)

    def _of(self, name: str, labels: Labels) -> Iterable[tuple[Labels, float]]:
        for found, value in self.samples.get(name, ()):
            if math.isfinite(value) and labels.items() <= found.items():
                yield found, value

    def document(self) -> dict[str, str]:
        """What is shown of it."""
        return {"url": self.url, "kind": self.kind, "problem": self.problem, "unready": self.unready}


class Endpoints:
    """Several of them, asked at once.

    Args:
      endpoints: which.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        self._pool = ThreadPoolExecutor(min(_AT_ONCE, max(len(endpoints), 1)), thread_name_prefix="scrape")

    def scrape(self) -> list[Scrape]:
        """What they say now."""
        return list(self._pool.map(_scrape, self._endpoints))

    def close(self) -> None:
        """Asks no more."""
        self._pool.shutdown(cancel_futures=True)


def _scrape(endpoint: Endpoint) -> Scrape:
    try:
        status, body = _get(endpoint, endpoint.path)
        if status != 200:
            return Scrape(endpoint.url, problem=f"answered {status}")
        samples = _samples(body.decode())
        kind = next((kind for name, kind in _KINDS.items() if name in samples), "unknown")
        unready = ""
        if any(value == 0 for _, value in samples.get("tidegauge_ready", ())):
            unready = _get(endpoint, "/readyz")[1][:MOST_WORDS].decode(errors="replace").strip()
    except (OSError, http.client.HTTPException, ValueError) as exc:
        return Scrape(endpoint.url, problem=f"does not answer: {str(exc) or type(exc).__name__:.{MOST_WORDS}}")
    return Scrape(endpoint.url, kind, unready=unready, samples=samples)


def _get(endpoint: Endpoint, path: str) -> tuple[int, bytes]:
    # No redirects are followed and no proxy is asked: this is whom the operator named.
    connection: http.client.HTTPConnection
    if endpoint.secure:
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(endpoint.address, timeout=TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(endpoint.address, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        body = answer.read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            raise ValueError(f"expected at most {MOST_BYTES} bytes")
        return answer.status, body
    finally:
        connection.close()


def _samples(text: str) -> dict[str, list[tuple[Labels, float]]]:
    found: defaultdict[str, list[tuple[Labels, float]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(_PREFIXES):
                found[sample.name].append((sample.labels, sample.value))
    return dict(found)


def drift_of(scrapes: Sequence[Scrape]) -> list[dict[str, Any]]:
    """What was measured last of drift, with its threshold."""
    found = []
    for scrape in scrapes:
        thresholds = {
            tuple(sorted(labels.items())): value
            for labels, value in scrape.samples.get("tidegauge_drift_threshold", ())
        }
        for labels, value in scrape.samples.get("tidegauge_drift", ()):
            threshold = thresholds.get(tuple(sorted(labels.items())))
            if threshold:
                found.append(
                    {"measure": labels.get("measure", ""), "feature": labels.get("feature", "")}
                    | {"value": value, "threshold": threshold}
                )
    return found
