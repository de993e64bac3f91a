"""The door: the command line.

Each verb is a thin call into one room, which is imported when the verb runs. Every verb has `--help` and `--json`; it
exits with 0 on success and with 2 and one clear line on bad input.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.errors import TidegaugeError

if TYPE_CHECKING:
    from streaming.metrics import LoopCollector

app = typer.Typer(
    name="tidegauge",
    help="One spec from raw events to live predictions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

SpecFile = Annotated[Path, typer.Option("--spec", help="The stream's spec (YAML).")]
Inputs = Annotated[list[str], typer.Option("--input", help="A file or pattern; may be given several times.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
_ROOMS = ("schemas", "pipelines", "models", "streaming", "flows", "deploy")
_EVERYTHING = "pip install 'tidegauge[batch,train,serve,stream,dashboard,local]' brings all"

StateDir = Annotated[Path | None, typer.Option("--state", help="State folder of the local stack.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit code."""
    _quieten()
    try:
        app(args=argv, prog_name="tidegauge")
    except SystemExit as done:  # Typer's way to end, mistakes in the arguments included
        return done.code if isinstance(done.code, int) else 0
    except TidegaugeError as exc:
        for line in str(exc).splitlines():
            print(f"tidegauge: {line}", file=sys.stderr)
        return exc.exit_code
    except ModuleNotFoundError as exc:  # such as pyarrow in the streaming image
        if exc.name is None or exc.name.partition(".")[0] in _ROOMS:
            raise
        print(
            f"tidegauge: expected the package {exc.name}, which is not installed here: {_EVERYTHING}", file=sys.stderr
        )
        return 2
    return 0


# --- batch ---


@app.command(context_settings={"allow_extra_args": True})
def ingest(
    context: typer.Context,
    spec: SpecFile,
    inputs: Inputs,
    output: Annotated[Path, typer.Option("--output", help="The dataset folder to write.")],
    all_origins: Annotated[
        bool, typer.Option("--all-origins", help="One split with every window, also those without a whole horizon.")
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="An earlier dataset to compare with, by the limits of `checks`.")
    ] = None,
    interval: Annotated[
        tuple[str, str] | None,
        typer.Option("--interval", metavar="START END", help="Add the span of this half-open interval (ISO times)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Window files, or with a spec of texts encode documents, into a TFRecord dataset (a Beam job).

    Beam's own options go after `--`.
    """
    from pipelines.ingest import ingest as run
    from pipelines.text_ingest import ingest_texts
    from schemas.dataset import DatasetFolder
    from schemas.text_spec import TextSpec, load_any_spec

    loaded = load_any_spec(spec)
    if isinstance(loaded, TextSpec):
        if all_origins or baseline or interval:
            raise typer.BadParameter("--all-origins, --baseline and --interval are for series, not for texts")
        texts = ingest_texts(loaded, inputs=inputs, output=str(output), beam_args=context.args)
        _show(texts.model_dump(mode="json"), as_json, lambda: _text_manifest_lines(texts.model_dump(), output))
        return
    manifest = run(
        loaded,
        inputs=inputs,
        output=str(output),
        beam_args=context.args,
        all_origins=all_origins,
        baseline=None if baseline is None else DatasetFolder(baseline),
        interval=interval,
    )
    _show(manifest.model_dump(mode="json"), as_json, lambda: _manifest_lines(manifest.model_dump(), output))


@app.command()
def inspect(
    dataset: Annotated[Path, typer.Argument(help="A dataset folder.")],
    as_json: AsJson = False,
) -> None:
    """Show what a dataset holds."""
    from schemas.dataset import DatasetFolder
    from schemas.text_dataset import TextDatasetFolder, is_text_dataset

    if is_text_dataset(dataset):
        texts = TextDatasetFolder(dataset).manifest
        _show(texts.model_dump(mode="json"), as_json, lambda: _text_manifest_lines(texts.model_dump(), dataset))
        return
    manifest = DatasetFolder(dataset).manifest
    _show(manifest.model_dump(mode="json"), as_json, lambda: _manifest_lines(manifest.model_dump(), dataset))


@app.command()
def schema(
    text: Annotated[bool, typer.Option("--text", help="That of a spec of texts.")] = False,
) -> None:
    """Print the spec's JSON Schema, for editors."""
    from schemas.spec import Spec, spec_json_schema
    from schemas.text_spec import TextSpec

    _print_json(spec_json_schema(TextSpec if text else Spec))


# --- models ---


@app.command()
def train(
    spec: SpecFile,
    data: Annotated[Path, typer.Option("--data", help="A dataset folder.")],
    output: Annotated[Path, typer.Option("--output", help="The run folder to write.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, if there is one, where it was stopped.")
    ] = False,
    checkpoint_every: Annotated[
        str, typer.Option(help="Time between checkpoints within an epoch, such as 5min; each epoch ends with one.")
    ] = "1min",
    strategy: Annotated[
        str, typer.Option(help="Devices: one, mirrored (all of this machine), multi-worker (by TF_CONFIG) or tpu.")
    ] = "one",
    as_json: AsJson = False,
) -> None:
    """Train the spec's model, and measure it on the test split beside its yardsticks.

    Those are persistence, the season before and a linear map, or for labels the most frequent class, and for texts a
    classifier of bigrams too.

    Ctrl-C and SIGTERM stop the run so that --resume goes on as if nothing had happened; so does a kill, from the last
    checkpoint.
    """
    _import_tensorflow()
    from models.distribution import kind_of
    from models.run import carry_out
    from models.tasks import open_task
    from schemas.text_spec import load_any_spec

    loaded, every = load_any_spec(spec), _seconds(checkpoint_every, "--checkpoint-every")
    kind = kind_of(strategy)
    summary = carry_out(
        lambda: open_task(loaded, data), output, resume=resume, quiet=as_json, checkpoint_seconds=every, strategy=kind
    )
    _show(asdict(summary), as_json, summary.lines)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run folder of `train`, or an exported model.")],
    data: Annotated[Path, typer.Option("--data", help="A dataset folder of the model's windows or texts.")],
    split: Annotated[str, typer.Option("--split", help="Of the dataset.")] = "test",
    output: Annotated[
        Path | None, typer.Option("--output", help="Where evaluation.json and report.html go; the run folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on a split: scores by step, key and slice beside yardsticks, and a report to look at.

    Of texts and of windows with a label: accuracy, macro F1 and confusion beside yardsticks.
    """
    _import_tensorflow()
    from models.exported import evaluate_exported
    from models.report import summary_lines
    from models.text.exported import evaluate_exported_texts, evaluation_lines
    from models.window_classes import evaluate_exported_classes
    from models.window_classes import evaluation_lines as class_lines
    from schemas.dataset import DatasetFolder
    from schemas.text_dataset import is_text_dataset

    lines: Callable[[Mapping[str, Any]], list[str]]
    if is_text_dataset(data):
        document, lines = evaluate_exported_texts(model, data, split=split, output=output), evaluation_lines
    elif DatasetFolder(data).spec.classes:
        document, lines = evaluate_exported_classes(model, data, split=split, output=output), class_lines
    else:
        document, lines = evaluate_exported(model, data, split=split, output=output).document, summary_lines
    _show(document, as_json, lambda: [*lines(document), f"report: {(output or model) / 'report.html'}"])


@app.command(context_settings={"allow_extra_args": True})
def backtest(
    context: typer.Context,
    spec: SpecFile,
    inputs: Inputs,
    output: Annotated[Path, typer.Option("--output", help="A folder for the folds; one that was stopped goes on.")],
    as_json: AsJson = False,
) -> None:
    """Train and measure the spec's model at rolling origins, fold by fold (Beam's own options go after `--`)."""
    _import_tensorflow()
    from flows.backtest import backtest as run
    from schemas.spec import load_spec

    found = run(
        load_spec(spec),
        inputs=inputs,
        output=output,
        beam_args=context.args,
        report=_reporter(as_json),
        quiet=as_json,
    )
    _show(found.document(), as_json, found.lines)


@app.command()
def tune(
    spec: SpecFile,
    space: Annotated[Path, typer.Option(help="The search space: values or ranges of fields, by their paths (YAML).")],
    data: Annotated[Path, typer.Option("--data", help="A dataset folder.")],
    output: Annotated[Path, typer.Option("--output", help="The folder of the search.")],
    trials: Annotated[int, typer.Option(min=1, help="Candidates to draw.")] = 20,
    method: Annotated[str, typer.Option(help="random, or halving: the best third of each round gets more.")] = "random",
    grows: Annotated[str, typer.Option(help="What it gets more of: epochs, or windows an epoch.")] = "epochs",
    metric: Annotated[
        str | None,
        typer.Option(
            help="On the validation split: mae (the default) or mse, in standardised units; of classes cross_entropy "
            "(the default) or error_rate."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the candidates.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in the folder, if there is one.")] = (
        False
    ),
    as_json: AsJson = False,
) -> None:
    """Search a spec's fields for what does best on the validation split; writes the best spec."""
    _import_tensorflow()
    from models.tuning import Search, table
    from models.tuning import tune as run
    from schemas.documents import parse_as, read_document
    from schemas.search_space import load_search_space
    from schemas.text_spec import load_any_spec

    load_any_spec(spec)
    search = {"trials": trials, "method": method, "grows": grows, "metric": metric, "seed": seed}
    tuned = run(
        read_document(spec, {}),
        load_search_space(space),
        parse_as(Search, search, where="tune"),
        data=data,
        output=output,
        resume=resume,
        report=_reporter(as_json),
    )
    _show(asdict(tuned), as_json, lambda: [*table(tuned), f"best: {tuned.best}"])


@app.command()
def ensemble(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `train`, two or more, of the same dataset.")],
    data: Annotated[Path, typer.Option("--data", help="That dataset.")],
    output: Annotated[Path, typer.Option("--output", help="The run folder to write.")],
    weights: Annotated[str, typer.Option(help="mean, or validation: fitted on that split.")] = "mean",
    as_json: AsJson = False,
) -> None:
    """Make one model of several trained ones; evaluate, push and serve it like any other."""
    _import_tensorflow()
    from models.ensemble import ensemble as run

    if weights not in ("mean", "validation"):
        raise typer.BadParameter(f"--weights: expected mean or validation, got '{weights}'")
    summary = run(runs, data=data, output=output, weights="mean" if weights == "mean" else "validation")
    _show(asdict(summary), as_json, summary.lines)


@app.command()
def push(
    run: Annotated[Path, typer.Option("--run", help="A run folder of `train`.")],
    spec: SpecFile,
    to: Annotated[Path | None, typer.Option("--to", help="Model base folder; the spec's `paths.models`.")] = None,
    as_json: AsJson = False,
) -> None:
    """Publish a trained model as the next version, whole or not at all."""
    from models.registry import push as publish
    from schemas.text_spec import load_any_spec

    loaded = load_any_spec(spec)
    base = to or Path(loaded.paths.models)
    version = publish(run, to=base, name=loaded.model_name)
    result = {"model": loaded.model_name, "version": version, "path": str(base / loaded.model_name / str(version))}
    _show(result, as_json, lambda: [f"{result['model']} version {version}: {result['path']}"])


@app.command(context_settings={"allow_extra_args": True})
def score(
    context: typer.Context,
    spec: SpecFile,
    output: Annotated[Path, typer.Option("--output", help="A new folder for Parquet files.")],
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="Files, whose every origin or document is predicted, ...")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="... or a dataset folder.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="BASE/NAME or BASE/NAME/VERSION, ...")] = None,
    server: Annotated[str | None, typer.Option("--server", help="... or HOST:PORT of a model server (gRPC).")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict files or a dataset to Parquet (a Beam job; Beam's own options go after `--`).

    With a spec of texts every document gets a class and its scores; documents of files need no label.
    """
    if model:
        _import_tensorflow()
    from flows.scoring import score as run
    from flows.text_scoring import score_texts
    from schemas.text_spec import TextSpec, load_any_spec

    if bool(inputs) == bool(data) or bool(model) == bool(server):
        raise typer.BadParameter("expected --input or --data, and --model or --server")
    loaded = load_any_spec(spec)
    what: dict[str, Any] = {
        "inputs": inputs or (),
        "data": data,
        "model": model,
        "server": server,
        "beam_args": context.args,
    }
    if isinstance(loaded, TextSpec):
        texts = score_texts(loaded, output=str(output), **what)
        _show(texts.model_dump(mode="json"), as_json, lambda: texts.lines(output))
        return
    summary = run(loaded, output=str(output), **what)

    def lines() -> list[str]:
        version = f"{summary.model.name} version {summary.model.version}"
        return [f"{output}: {summary.predictions} predictions by {version}, {len(summary.files)} files"]

    _show(summary.model_dump(mode="json"), as_json, lines)


# --- the local stack ---


@app.command()
def up(
    spec: Annotated[
        Path | None, typer.Option("--spec", help="Also create the stream's topics and start the model server.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", help="Kafka's port on loopback; 0 for a free one.")] = None,
    state: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Start a real Apache Kafka on this machine and, with a spec, the model server."""
    from flows.local_stack import start
    from schemas.text_spec import load_any_spec

    stack = start(load_any_spec(spec) if spec else None, state_dir=state, port=port, report=_reporter(as_json))
    endpoints = {process.name: dict(process.endpoints) for process in stack.processes}
    _show(endpoints, as_json, lambda: [f"{name}: {', '.join(found.values())}" for name, found in endpoints.items()])


@app.command()
def down(state: StateDir = None, as_json: AsJson = False) -> None:
    """Stop what `up` started; the data stays."""
    from deploy.local.stack import down as stop

    stopped = stop(state)
    _show({"stopped": stopped}, as_json, lambda: [f"stopped: {', '.join(stopped) or 'nothing was running'}"])


@app.command()
def serve(spec: SpecFile) -> None:
    """Serve the spec's models in the foreground (see also `tidegauge-model-server --help`)."""
    from flows.local_stack import model_server_args
    from schemas.text_spec import load_any_spec
    from streaming.model_server.main import main as serve_models

    raise typer.Exit(serve_models(model_server_args(load_any_spec(spec))))


@app.command(name="serving-config")
def serving_config(
    spec: SpecFile,
    output: Annotated[Path, typer.Option("--output", help="A folder for the files.")],
    models: Annotated[str, typer.Option(help="The models' folder as the server sees it.")] = "/models",
    label: Annotated[
        list[str] | None, typer.Option("--label", help="NAME=VERSION for the server to know; several may be given.")
    ] = None,
    server_key: Annotated[Path | None, typer.Option(help="With `serving.tls`: the server's key (PEM), ...")] = None,
    server_certificate: Annotated[Path | None, typer.Option(help="... its certificate, ...")] = None,
    client_ca: Annotated[Path | None, typer.Option(help="... and the authority of clients' certificates.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write TensorFlow Serving's config files for the spec's model, and print the flags to start a server with."""
    from flows.serving_config import ServerIdentity, write_serving_config
    from schemas.text_spec import load_any_spec

    labels = {}
    for given in label or ():
        name, _, version = given.partition("=")
        if not name or not version.isdecimal():
            raise typer.BadParameter(f"--label: expected NAME=VERSION, got '{given}'")
        labels[name] = int(version)
    if (server_key is None) != (server_certificate is None) or (client_ca and not server_key):
        raise typer.BadParameter("expected --server-key and --server-certificate together, and --client-ca with them")
    identity = None
    if server_key is not None and server_certificate is not None:
        identity = ServerIdentity(server_key, server_certificate, client_ca)
    written = write_serving_config(load_any_spec(spec), output, models=models, labels=labels, identity=identity)
    _show(
        {"files": {flag: str(path) for flag, path in written.files.items()}, "flags": written.flags},
        as_json,
        lambda: written.flags,
    )


# --- live ---


@app.command()
def replay(
    spec: SpecFile,
    inputs: Inputs,
    speed: Annotated[str, typer.Option(help="Event time a second of real time, such as 60x; or max.")] = "max",
    as_json: AsJson = False,
) -> None:
    """Play files into the stream's input topic by their event times, or documents in their files' order."""
    from flows.replay import parse_speed, replay_texts
    from flows.replay import replay as run
    from schemas.text_spec import TextSpec, load_any_spec

    loaded, factor = load_any_spec(spec), parse_speed(speed)
    if isinstance(loaded, TextSpec):
        if factor is not None:
            raise typer.BadParameter("--speed is for series; documents have no event times")
        summary = replay_texts(loaded, inputs, report=_reporter(as_json))
    else:
        summary = run(loaded, inputs, speed=factor, report=_reporter(as_json))
    _show(
        asdict(summary),
        as_json,
        lambda: [f"{summary.rows} rows: {summary.sent} sent, {summary.dead} dead letters, {summary.seconds:.1f} s"],
    )


@app.command()
def stream(
    spec: SpecFile,
    start: Annotated[
        str, typer.Option("--from", help="Where a new group begins: latest, earliest or an ISO time.")
    ] = "latest",
    warm_from: Annotated[
        Path | None, typer.Option("--warm-from", help="A dataset to warm windows from that the topic does not reach.")
    ] = None,
    member: Annotated[str | None, typer.Option(help="This process's own name within the group; else 0.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="So many members: 0, 1, ..., or MEMBER-0 and so on.")] = 1,
    until_end: Annotated[bool, typer.Option("--until-end", help="Stop at the end that the topic has now.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the model server.")] = 10.0,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", help="Serve /metrics, /healthz and /readyz here, the nth process on PORT + n."),
    ] = None,
    progress: Annotated[bool, typer.Option("--progress", help="With --json, still say what happens.")] = False,
    as_json: AsJson = False,
) -> None:
    """Consume events or documents and write predictions, exactly once."""
    from threading import Event

    from schemas.text_spec import TextSpec, load_any_spec
    from streaming.input_topic import parse_start

    loaded, begin, stopping = load_any_spec(spec), parse_start(start), Event()
    if isinstance(loaded, TextSpec) and warm_from is not None:
        raise typer.BadParameter("--warm-from is for series; documents have no windows to warm")
    report = _reporter(as_json and not progress)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    if processes > 1:
        from streaming.members import run_members

        command = [sys.executable, "-m", "tidegauge", "stream", "--spec", str(spec), "--from", start]
        command += ["--warm-from", str(warm_from)] if warm_from else []
        command += ["--until-end"] if until_end else []
        command += ["--wait", str(wait), "--json", "--progress"]
        commands = {}
        for number in range(processes):
            one = str(number) if member is None else f"{member}-{number}"
            port = metrics_port + number if metrics_port else metrics_port  # 0 is a free one for each
            commands[one] = [*command, "--member", one, *(["--metrics-port", str(port)] if port is not None else [])]
        counts = run_members(commands, stopping=stopping, report=report)
    else:
        from streaming.consumer import StreamConsumer
        from streaming.live_status import LiveStatus
        from streaming.metrics import LiveCollector

        seeds = None
        if warm_from is not None and not isinstance(loaded, TextSpec):
            from flows.warm_start import DatasetSeeds

            seeds = DatasetSeeds(loaded, warm_from)
            report(f"{warm_from}: windows of {len(seeds)} keys")
        status = LiveStatus()
        consumer = StreamConsumer(
            loaded,
            member=member or "0",
            start=begin,
            seeds=seeds,
            until_end=until_end,
            wait_s=wait,
            stopping=stopping,
            status=status,
            report=report,
        )
        with _metrics(LiveCollector(status), metrics_port):
            counts = consumer.run().document()
    _show(counts, as_json, lambda: [", ".join(f"{name} {count}" for name, count in counts.items())])


@app.command()
def accuracy(
    spec: SpecFile,
    start: Annotated[
        str, typer.Option("--from", help="Where a new group begins: latest, earliest or an ISO time.")
    ] = "latest",
    member: Annotated[str, typer.Option(help="This process's own name within the group; a second one stands by.")] = (
        "0"
    ),
    until_end: Annotated[
        bool, typer.Option("--until-end", help="Stop once all that has been predicted so far has been read.")
    ] = False,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", help="Serve /metrics, /healthz and /readyz here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score live predictions as the actual values arrive, exactly once, and tell drift of inputs and errors."""
    from threading import Event

    from schemas.spec import load_spec, require_targets
    from streaming.accuracy.figures import AccuracyStatus
    from streaming.accuracy.metrics import AccuracyCollector
    from streaming.accuracy.scorer import AccuracyScorer
    from streaming.input_topic import parse_start

    loaded, begin, stopping, status = load_spec(spec), parse_start(start), Event(), AccuracyStatus()
    require_targets(loaded, "score")
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    scorer = AccuracyScorer(
        loaded,
        member=member,
        start=begin,
        until_end=until_end,
        stopping=stopping,
        status=status,
        report=_reporter(as_json),
    )
    with _metrics(AccuracyCollector(status), metrics_port):
        summary = scorer.run()
    _show(summary.document(), as_json, summary.lines)


@app.command()
def dashboard(
    spec: SpecFile,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metrics", help="HOST:PORT or URL of a process's metrics; several may be given."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on; there is no login.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 for a free one.")] = 8_600,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="A name that browsers may call it by, beside localhost and addresses."),
    ] = None,
    keys: Annotated[int, typer.Option(min=1, help="Follow so many keys: the first that come, or are asked for.")] = 100,
    tail: Annotated[int, typer.Option(min=1, help="Begin so many records before each topic's end.")] = 60_000,
    as_json: AsJson = False,
) -> None:
    """Show the stream in a browser, live: forecasts and what came, errors, lag, versions, drift, dead letters.

    Reads the stream's topics and, with --metrics, the metrics of its processes, and changes nothing anywhere.
    """
    from threading import Event

    from schemas.text_spec import load_any_spec
    from streaming.dashboard.dashboard import run_dashboard

    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    def serving(address: str) -> None:
        _show({"address": address}, as_json, lambda: [f"dashboard: {address}"])
        sys.stdout.flush()

    run_dashboard(
        load_any_spec(spec),
        metrics=metrics or (),
        host=host,
        port=port,
        names=name or (),
        keys=keys,
        tail=tail,
        stopping=stopping,
        serving=serving,
    )


@contextmanager
def _metrics(collector: LoopCollector, port: int | None) -> Iterator[None]:
    """Serves a loop's metrics where somebody wants them, and says where: the port may be a free one."""
    if port is None:
        yield
        return
    from streaming.metrics import MetricsServer

    with MetricsServer(collector, port) as server:
        print(f"metrics on port {server.port}", file=sys.stderr, flush=True)
        yield


@app.command(name="dead-letters")
def dead_letters(
    spec: SpecFile,
    reason: Annotated[
        list[str] | None, typer.Option("--reason", help="Only of this reason; several may be given.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only with a record time from this ISO time on ...")] = None,
    until: Annotated[str | None, typer.Option(help="... and before this one.")] = None,
    partition: Annotated[int | None, typer.Option(help="Only in this partition of the dead letters' topic.")] = None,
    show: Annotated[str | None, typer.Option("--show", help="Show one letter whole: PARTITION@OFFSET.")] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Send the letters' bytes to the input topic again, each letter once.")
    ] = False,
    max_replays: Annotated[int, typer.Option(help="Leave alone what was sent again so often already.")] = 1,
    limit: Annotated[int, typer.Option(help="List so many letters at most, the last ones.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List dead letters by reason, time and partition, show one whole, or send them to the input topic again."""
    from schemas.text_spec import load_any_spec
    from streaming.letter_box import Choice, LetterBox, list_letters, parse_time

    if replay and show:
        raise typer.BadParameter("expected --show or --replay, not both")
    box = LetterBox(load_any_spec(spec))
    if show:
        letter = box.letter(show).document(whole=True)
        _show(letter, as_json, lambda: [f"{name}: {value}" for name, value in letter.items()])
        return
    choice = Choice(reason or (), parse_time("--since", since), parse_time("--until", until), partition)
    if replay:
        summary = box.replay(choice, max_replays=max_replays)
        _show(summary.document(), as_json, summary.lines)
        return
    listing = list_letters(box, choice, limit=limit)
    _show(asdict(listing), as_json, listing.lines)


@app.command()
def predict(
    spec: SpecFile,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="Files with the key's recent events.")] = None,
    key: Annotated[str | None, typer.Option(help="Which series, where the files hold several.")] = None,
    raw: Annotated[Path | None, typer.Option(help="Send the arrays of an .npz file as they are instead.")] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option("--text", help="A document to classify; may be given several times. None: a line of stdin each."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Forecast from recent events with the served model, and print times and units; or classify texts."""
    from flows import predict as flow
    from flows.text_predict import predict_texts
    from schemas.text_spec import TextSpec, load_any_spec

    loaded = load_any_spec(spec)
    if isinstance(loaded, TextSpec):
        if inputs or key or raw:
            raise typer.BadParameter("--input, --key and --raw are for series; give texts by --text or on stdin")
        classified = predict_texts(loaded, texts or [line.rstrip("\n") for line in sys.stdin])
        _show(classified.document(), as_json, classified.lines)
        return
    if texts:
        raise typer.BadParameter("--text is for a spec of texts")
    if (raw is None) == (not inputs):
        raise typer.BadParameter("expected either --input or --raw")
    if raw is not None:
        _print_json(flow.predict_raw(loaded, raw))
        return
    prediction = flow.predict(loaded, inputs or [], key=key)
    _show(flow.document(loaded, prediction), as_json, lambda: flow.lines(loaded, prediction))


@app.command()
def verify(
    spec: SpecFile,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="Files to take through both paths.")] = None,
    predictions: Annotated[str | None, typer.Option(help="A predictions topic to check ...")] = None,
    data: Annotated[Path | None, typer.Option(help="... against this dataset.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that training and live predictions see the same windows, bit for bit."""
    _import_tensorflow()
    from flows import verify as flow
    from flows.verify_text import verify_texts
    from schemas.dataset import DatasetFolder
    from schemas.text_spec import TextSpec, load_any_spec

    loaded = load_any_spec(spec)
    if isinstance(loaded, TextSpec):
        if not inputs or predictions or data:
            raise typer.BadParameter("expected --input: predictions of texts have no windows to compare")
        texts = verify_texts(loaded, inputs)
        _show(asdict(texts) | {"holds": texts.holds}, as_json, texts.lines)
        raise typer.Exit(0 if texts.holds else 1)
    if inputs and not (predictions or data):
        parity = flow.verify_inputs(loaded, inputs)
    elif predictions and data and not inputs:
        parity = flow.verify_predictions(loaded, DatasetFolder(data), predictions)
    else:
        raise typer.BadParameter("expected --input, or --predictions with --data")
    _show(asdict(parity) | {"holds": parity.holds}, as_json, parity.lines)
    raise typer.Exit(0 if parity.holds else 1)


@app.command()
def demo(
    spec: Annotated[Path | None, typer.Option("--spec", help="Another spec than the weather's.")] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="Its files; those of the weather and languages are shipped.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", help="Where everything is written.")] = Path(".tidegauge/demo"),
    as_json: AsJson = False,
) -> None:
    """The whole path on real data: ingest, train, push, serve, stream, score, verify; with series or with texts."""
    _clean_up_on_sigterm()
    _import_tensorflow()
    from flows.demo import run_demo
    from flows.demo_parts import WEATHER_SPEC, demo_inputs
    from flows.text_demo import run_text_demo
    from schemas.text_spec import TextSpec, load_any_spec

    spec_file = spec or WEATHER_SPEC
    files, report = demo_inputs(spec_file, inputs or ()), _reporter(as_json)
    if isinstance(load_any_spec(spec_file), TextSpec):
        texts = run_text_demo(spec_file, files, output=output, report=report)
        _show(texts.document(), as_json, texts.lines)
        raise typer.Exit(0 if texts.holds else 1)
    result = run_demo(spec_file, files, output=output, report=report)
    _show(result.document(), as_json, result.lines)
    raise typer.Exit(0 if result.holds else 1)


# --- the loop ---


@app.command(context_settings={"allow_extra_args": True})
def retrain(
    context: typer.Context,
    spec: SpecFile,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="Files, patterns or kafka:TOPIC; the spec's input topic when left out."),
    ] = None,
    interval: Annotated[
        tuple[str, str] | None, typer.Option("--interval", metavar="START END", help="The run's (ISO times).")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="The newest interval that is over at this ISO time; now.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do all but publish, record and notify.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Do an interval anew that is finished.")] = False,
    as_json: AsJson = False,
) -> None:
    """Retrain for one interval: ingest, train, gate against the champion, try on a server, publish, wait until served.

    A run that was killed goes on where it was; one of a finished interval does nothing. Beam's own options go after
    `--`.

    Exit codes: 0 promoted, 3 nothing to do, 4 refused (the champion goes on serving; the run card says why), 5 another
    run is under way, 2 bad input, 1 failed (try again), 130 stopped (the next run goes on).
    """
    _import_tensorflow()
    from flows.retrain import retrain as run
    from schemas.spec import load_spec

    result = run(
        load_spec(spec),
        inputs=inputs or (),
        interval=interval,
        as_of=as_of,
        dry_run=dry_run,
        again=again,
        beam_args=context.args,
        report=_reporter(as_json),
        quiet=as_json,
    )
    _show(result.document(), as_json, result.lines)
    raise typer.Exit(result.exit_code)


@app.command()
def rollback(
    spec: SpecFile,
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who read the registry.")],
    version: Annotated[
        int | None,
        typer.Option("--version", min=1, help="The version to go back to; the last good one before the champion."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the server has it.")] = True,
    as_json: AsJson = False,
) -> None:
    """Publish the files of an earlier version as the next one, and keep the champion from coming back."""
    from flows.rollback import roll_back
    from schemas.text_spec import load_any_spec

    done = roll_back(load_any_spec(spec), reason=reason, version=version, wait_s=None if wait else 0)
    _show(done.document(), as_json, done.lines)


@app.command()
def models(spec: SpecFile, as_json: AsJson = False) -> None:
    """List the model's versions: which one is the champion, and why each was promoted, refused or rolled back."""
    from flows.model_list import list_models
    from schemas.text_spec import load_any_spec

    found = list_models(load_any_spec(spec))
    _show(found.document(), as_json, found.lines)


@app.command()
def prune(
    spec: SpecFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete versions, retraining runs and spans that nothing needs any more, by the spec's `retrain.retain`."""
    from flows.prune import prune as run
    from schemas.spec import load_spec

    found = run(load_spec(spec), dry_run=dry_run)
    _show(found.document(), as_json, found.lines)


@app.command()
def probation(spec: SpecFile, as_json: AsJson = False) -> None:
    """Hold the version that was just promoted against the one before it, live, and take it back if it is worse.

    Each run takes it a step on, and may be killed at any moment. Exit codes: 0 it stays, 3 there is nothing to do, 4 it
    was rolled back, 5 not decided yet.
    """
    from flows.probation import probation as run
    from schemas.spec import load_spec

    result = run(load_spec(spec), report=_reporter(as_json))
    _show(result.document(), as_json, result.lines)
    raise typer.Exit(result.exit_code)


@app.command()
def schedule(
    spec: SpecFile,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="For `retrain`: files or patterns; else the input topic.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, start all that is due, and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start `retrain` at cron times, on fresh data and on drift, and `probation` between them, one at a time.

    Until stopped: SIGTERM and Ctrl-C end a run that is under way so that the next schedule goes on with it. With --once
    the exit code is that of the last run that failed, else 0.
    """
    from threading import Event

    from flows.schedule import Scheduler
    from schemas.spec import load_spec

    stopping = Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopping.set())
    scheduler = Scheduler(load_spec(spec), spec, inputs=inputs or (), stopping=stopping, report=_reporter(as_json))
    scheduler.run(once=once)
    runs = dict(scheduler.runs)
    _show(runs, as_json, lambda: [f"{name}: {count}" for name, count in runs.items()] or ["nothing was due"])
    raise typer.Exit(scheduler.failed if once else 0)


@app.command()
def simulate(
    spec: Annotated[Path | None, typer.Option("--spec", help="Another spec than the weather's.")] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="Its files; those of the weather are shipped.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", help="Where everything is written.")] = Path(
        ".tidegauge/simulation"
    ),
    deviations: Annotated[
        float, typer.Option(help="By so many of their standard deviations the targets rise when the world changes.")
    ] = 3.0,
    as_json: AsJson = False,
) -> None:
    """Watch the closed loop: months of data in minutes, with a change of the world and a sabotaged model in it.

    Errors rise, drift is told, a retrained model passes the gate and serves, errors fall; then a bad model is pushed,
    and is rolled back by itself. The exit code is 0 where all of that was so, else 1.
    """
    _clean_up_on_sigterm()
    _import_tensorflow()
    from flows.demo_parts import WEATHER_LOOP_SPEC, WEATHER_SPEC, demo_inputs
    from flows.simulate import simulate as run

    files = demo_inputs(spec, inputs or ()) if spec else inputs or demo_inputs(WEATHER_SPEC, ())
    result = run(spec or WEATHER_LOOP_SPEC, files, output=output, deviations=deviations, report=_reporter(as_json))
    _show(result.document(), as_json, result.lines)
    raise typer.Exit(0 if result.holds else 1)


@app.command()
def capacity(
    events: Annotated[
        float,
        typer.Option("--events-per-second", metavar="N", min=0.001, max=1e12, help="Of the whole stream, such as 1e5."),
    ],
    keys: Annotated[float, typer.Option("--keys", metavar="N", min=1, max=1e12, help="That send them.")],
    spec: Annotated[
        Path | None,
        typer.Option("--spec", help="Of the stream; without it windows of 64 steps of 5 features, 24 ahead, an LSTM."),
    ] = None,
    costs: Annotated[
        Path | None, typer.Option("--costs", help="What `make bench-capacity` wrote; what we measured when left out.")
    ] = None,
    window_us: Annotated[
        float | None,
        typer.Option(min=0, help="What your model takes of one core for a window, in microseconds."),
    ] = None,
    utilisation: Annotated[
        float, typer.Option(min=0.01, max=1, help="The share of the time that parts may be busy.")
    ] = 0.7,
    consumer_mib: Annotated[float, typer.Option(min=1, help="Memory of one consumer, in MiB.")] = 2048,
    server_cores: Annotated[int, typer.Option(min=1, help="Of one model server.")] = 4,
    replication: Annotated[int, typer.Option(min=1, help="Of the topics.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Tell how many partitions, consumers, model servers, brokers and Flink slots a load takes."""
    from deploy.capacity.account import account
    from deploy.capacity.costs import load_costs
    from deploy.capacity.sizes import Limits, sizes
    from deploy.capacity.work import Load, Work, work_of
    from schemas.spec import load_spec

    measured, work = load_costs(costs), work_of(load_spec(spec)) if spec else Work()
    limits = Limits(
        utilisation=utilisation,
        consumer_bytes=consumer_mib * 2**20,
        server_cores=server_cores,
        replication=replication,
        window_us=window_us,
    )
    found = sizes(Load(events_per_s=events, keys=keys), work, measured, limits)
    _show(asdict(found), as_json, lambda: account(found, measured, limits))


# --- output ---


def _quieten() -> None:
    """Keeps off the terminal what libraries say to nobody; warnings of ours and of theirs at work still show."""
    handler = logging.StreamHandler()
    # Beam logs to the root logger at import; kafka-python writes a line a second while a broker is away, of which what
    # matters comes as our own words.
    handler.addFilter(lambda record: record.name.partition(".")[0] not in ("root", "kafka"))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=[handler])


def _clean_up_on_sigterm() -> None:
    """What was started for a run ends with it: by default a process that is told to end does nothing more."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _import_tensorflow() -> None:
    """Imports TensorFlow without its notes on the machine, which go to the terminal whatever its settings say."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryFile() as notes:
        terminal = os.dup(2)
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            notes.seek(0)
            os.write(terminal, notes.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _seconds(duration: str, option: str) -> float:
    from schemas.units import parse_duration_ms

    try:
        return parse_duration_ms(duration) / 1_000
    except ValueError as exc:
        raise typer.BadParameter(f"{option}: {exc}, got '{duration}'") from exc


def _reporter(as_json: bool) -> Callable[[str], None]:
    """Progress in words: on the error stream, so that `--json` output stays clean; not at all with `--json`."""
    return (lambda _: None) if as_json else (lambda line: print(line, file=sys.stderr, flush=True))


def _show(result: Mapping[str, Any], as_json: bool, lines: Callable[[], Sequence[str]]) -> None:
    if as_json:
        _print_json(result)
    else:
        for line in lines():
            print(line)


def _print_json(document: Any) -> None:
    import orjson

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        return str(value)

    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    print(orjson.dumps(document, default=plain, option=options).decode())


def _text_manifest_lines(manifest: Mapping[str, Any], path: Path) -> list[str]:
    counts = manifest["documents"]
    lines = [
        f"{path}: texts {manifest['window_fingerprint']}, {manifest['vocabulary']} tokens in the vocabulary",
        f"rows {counts['rows']} = used {counts['used']} + dead {counts['dead']}",
    ]
    for reason, count in sorted(counts["dead_by_reason"].items()):
        lines.append(f"  dead, {reason}: {count}")
    for name, split in manifest["splits"].items():
        lines.append(f"{name}: {split['documents']} documents")
        if (lengths := split["lengths"]) is None:
            continue
        classes = sorted(split["documents_by_class"].items(), key=lambda item: (-item[1], item[0]))
        shares = [f"{label} {count} ({count / split['documents']:.1%})" for label, count in classes[:10]]
        more = f" and {len(classes) - 10} more classes" if len(classes) > 10 else ""
        lines.append(f"  classes: {', '.join(shares)}{more}")
        quantiles = ", ".join(f"{part} {lengths[part]}" for part in ("min", "median", "p90", "p99", "max"))
        lines.append(f"  tokens: mean {lengths['mean']:.1f}, {quantiles}; {split['cut']} documents cut")
        unknown = split["unknown"] / max(split["tokens"], 1)
        lines.append(f"  unknown tokens: {unknown:.1%}; at most {split['most_rows']} rows")
    return lines


def _manifest_lines(manifest: Mapping[str, Any], path: Path) -> list[str]:
    from schemas.units import ms_to_iso

    events = manifest["events"]
    parts = " + ".join(f"{name} {events[name]}" for name in ("used", "duplicate", "late", "dead"))
    lines = [f"{path}: windows {manifest['window_fingerprint']}", f"rows {events['rows']} = {parts}"]
    for reason, count in sorted(events["dead_by_reason"].items()):
        lines.append(f"  dead, {reason}: {count}")
    for name, split in manifest["splits"].items():
        first, last = split["first_origin_ms"], split["last_origin_ms"]
        span = f", origins {ms_to_iso(first)} to {ms_to_iso(last)}" if first is not None else ""
        keys = ", ".join(f"{key} {count}" for key, count in sorted(split["windows_by_key"].items())[:10])
        more = f" and {len(split['windows_by_key']) - 10} more keys" if len(split["windows_by_key"]) > 10 else ""
        lines.append(f"{name}: {split['windows']} windows ({keys}{more}){span}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
