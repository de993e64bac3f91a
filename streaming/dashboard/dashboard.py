"""`tidegauge dashboard`: reads the topics and the endpoints of a stream, and serves the page until it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import Event as StopFlag
from threading import Thread

from schemas.spec import Spec
from schemas.text_spec import TextSpec
from streaming.dashboard.board import MOST_KEYS, Board
from streaming.dashboard.endpoints import Endpoint, Endpoints
from streaming.dashboard.reader import TopicReader
from streaming.dashboard.server import DashboardServer

SCRAPE_S = 3.0
TAIL = 60_000


def run_dashboard(
    spec: Spec | TextSpec,
    *,
    metrics: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 0,
    names: Sequence[str] = (),
    keys: int = MOST_KEYS,
    tail: int = TAIL,
    stopping: StopFlag,
    serving: Callable[[str], None],
) -> None:
    """Serves the page of one stream.

    Args:
      spec: the stream.
      metrics: the endpoints of its processes, as `Endpoint.parse` takes them.
      host: the address to listen on.
      port: 0 for a free one.
      names: what browsers may call it, beside localhost and addresses.
      keys: how many keys are followed.
      tail: so many records of each topic are read of what was before.
      stopping: once set, it ends.
      serving: is told the page's address once it is there.
    Raises:
      InputError: an endpoint or the address is wrong.
      ModuleNotFoundError: plotly is not installed.
    """
    asked = [Endpoint.parse(one) for one in metrics]
    board = Board(spec, keys=keys)
    reader = TopicReader(
        spec.kafka,
        board.topics,
        events=spec.topics.input.name,
        predictions=spec.topics.predictions.name,
        group=spec.group,
        taker=board,
        tail=tail,
    )
    with ExitStack() as stack:
        server = stack.enter_context(DashboardServer(board.document, host=host, port=port, names=names))
        stack.enter_context(reader)
        if asked:
            endpoints = Endpoints(asked)
            stack.callback(endpoints.close)
            scraper = Thread(target=_scrape, args=(endpoints, board, stopping), daemon=True, name="metrics")
            scraper.start()
            stack.callback(scraper.join)
        shown = f"[{host}]" if ":" in host else host
        serving(f"http://{shown}:{server.port}/")
        stopping.wait()


def _scrape(endpoints: Endpoints, board: Board, stopping: StopFlag) -> None:
    while not stopping.is_set():
        board.scraped(endpoints.scrape())
        stopping.wait(SCRAPE_S)
