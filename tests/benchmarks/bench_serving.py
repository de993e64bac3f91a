"""What the model server costs: `python -m tests.benchmarks.bench_serving [--only NAME ...] [--json FILE]`.

Everything runs on this machine at the same time, the clients included, so that only ratios within one run mean much.
Each comparison is measured in rounds, turn by turn, and the medians are compared.

    latency     one client, one LSTM window: what the server adds to the bare session call
    noop        32 clients, a model that does nothing, against a bare grpcio server that echoes the same messages
    batching    64 clients of the LSTM with batching, against one client without
    one_cpu     the two before, with the server held to one CPU
    batch256    windows a second in requests of 256, against the bare session call
    plain       against a grpcio server that calls `tf.saved_model.load().signatures` and `tf.make_ndarray`
    idle        500 idle connections beside the clients of noop
    swap        a new version every 2 s under half of the saturating load
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np

from streaming.serving_protos import PredictRequest, PredictResponse
from streaming.tensors import encode_tensor
from tests.conformance.server_process import REPOSITORY, ServerProcess

PREDICT = "/tensorflow.serving.PredictionService/Predict"
WINDOW = (96, 7)
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
ROUNDS = 3
ROUND_S = 4.0


# --- models and contestants -------------------------------------------------------------------------------------------


def write_models(folder: Path) -> None:
    """An LSTM(64) over 96 steps of 7 features, exported by Keras, and a model that gives back its input."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input(WINDOW), keras.layers.LSTM(64), keras.layers.Dense(24)])
    archive = keras.export.ExportArchive()
    archive.track(model)
    spec = tf.TensorSpec([None, *WINDOW], tf.float32, name="x")
    archive.add_endpoint("serve", lambda x: {"y": model(x)}, input_signature=[spec])
    archive.write_out(str(folder / "lstm" / "1"), verbose=False)

    module = tf.Module()
    module.identity = tf.function(
        lambda x: {"y": tf.identity(x)}, input_signature=[tf.TensorSpec(None, tf.float32, name="x")]
    )
    tf.saved_model.save(module, str(folder / "noop" / "1"), signatures={"serving_default": module.identity})


def bare_session(path: Path, batch: int, seconds: float) -> list[float]:
    """Seconds of each call of the model's callable in this process."""
    from streaming.model_server.saved_model_bundle import SessionOptions, load_bundle
    from streaming.model_server.servable import Servable

    bundle = load_bundle(path, SessionOptions())
    signature = Servable("m", 1, bundle).signatures["serving_default"]
    run = bundle.executable(tuple(signature.inputs.values()), tuple(signature.outputs.values()))
    x = windows(batch)
    for _ in range(5):
        run(x)
    times = []
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        started = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - started)
    return times


def serve_echo(threads: int) -> None:
    """A grpcio server whose Predict answers with the tensor that it got."""

    def echo(request, context):
        response = PredictResponse()
        response.outputs["y"].CopyFrom(request.inputs["x"])
        return response

    _serve(echo, threads)


def serve_plain(path: str, threads: int) -> None:
    """The server that is written first: eager signatures, `make_ndarray`, `make_tensor_proto`."""
    import tensorflow as tf

    run = tf.saved_model.load(path).signatures["serving_default"]

    def predict(request, context):
        x = tf.constant(tf.make_ndarray(request.inputs["x"]))
        response = PredictResponse()
        y = run(x=x)["y"].numpy()
        # Typed fields, as TensorFlow Serving's clients expect them; make_tensor_proto would use tensor_content.
        tensor = response.outputs["y"]
        tensor.dtype = 1
        for size in y.shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.float_val.extend(y.ravel().tolist())
        return response

    _serve(predict, threads)


def _serve(method: Callable, threads: int) -> None:
    server = grpc.server(ThreadPoolExecutor(threads), options=UNLIMITED)
    handler = grpc.unary_unary_rpc_method_handler(
        method,
        request_deserializer=PredictRequest.FromString,
        response_serializer=PredictResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"port {port}", flush=True)
    server.wait_for_termination()


@contextmanager
def contestant(*arguments: str):
    """One of the servers above in a process of its own; gives its address and its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.bench_serving", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=REPOSITORY,
    )
    try:
        for line in process.stdout:
            if line.startswith("port "):
                break
        else:
            raise RuntimeError(f"{arguments} did not start")
        yield f"127.0.0.1:{int(line.split()[1])}", process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# --- clients ----------------------------------------------------------------------------------------------------------


def windows(batch: int) -> np.ndarray:
    """Random input, float32 `(batch, 96, 7)`."""
    return np.random.default_rng(1).normal(size=(batch, *WINDOW)).astype(np.float32)


def request_bytes(name: str, x: np.ndarray, *, as_content: bool = False) -> bytes:
    """A PredictRequest on the wire."""
    request = PredictRequest(model_spec={"name": name})
    request.inputs["x"].CopyFrom(encode_tensor(x, as_content=as_content))
    return request.SerializeToString()


def _client_process(target: str, message: bytes, threads: int, start: float, stop: float, pace_s: float, queue) -> None:
    """`threads` clients that each ask again as soon as they are answered, or every `pace_s`."""
    latencies: list[float] = []
    failures: list[str] = []
    ends: list[float] = []

    def client(number: int) -> None:
        # A channel for each few clients: one carries about a hundred streams at most, and is a bottleneck before that.
        with grpc.insecure_channel(target, options=[*UNLIMITED, ("number", number % 2)]) as channel:
            call = channel.unary_unary(PREDICT)
            time.sleep(max(0.0, start - time.time()))
            due = time.time() + pace_s * number / threads
            while (now := time.time()) < stop:
                if pace_s:
                    time.sleep(max(0.0, due - now))
                    due += pace_s
                started = time.perf_counter()
                try:
                    call(message, timeout=30)
                except grpc.RpcError as error:
                    failures.append(f"{error.code()}: {error.details()}")
                    continue
                latencies.append(time.perf_counter() - started)
                ends.append(time.time())

    running = [threading.Thread(target=client, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    queue.put((latencies, ends, failures))


class Load:
    """What clients saw: seconds of each request, when it ended, and failures."""

    def __init__(self, parts: list, seconds: float) -> None:
        self.latencies = np.concatenate([np.array(part[0]) for part in parts])
        self.ends = np.concatenate([np.array(part[1]) for part in parts])
        self.failures = [failure for part in parts for failure in part[2]]
        self.rate = len(self.latencies) / seconds

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.latencies, percent)) * 1e3


def load(
    target: str, message: bytes, clients: int, seconds: float = ROUND_S, rate: float = 0.0, processes: int = 2
) -> Load:
    """Puts `clients` clients to a server; with `rate`, they ask that many times a second together."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = min(processes, clients)
    start = time.time() + 1.5
    share = clients // processes
    pace_s = clients / rate if rate else 0.0
    arguments = (target, message, share, start, start + seconds, pace_s, queue)
    running = [context.Process(target=_client_process, args=arguments) for _ in range(processes)]
    for process in running:
        process.start()
    parts = [queue.get() for _ in running]
    for process in running:
        process.join()
    result = Load(parts, seconds)
    if result.failures and not rate:
        raise RuntimeError(f"{len(result.failures)} requests failed: {result.failures[0]}")
    return result


class CpuPerRequest:
    """The processor time that a server spends on a request, of user and system together."""

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._spent_s = self._read_s()
        self._each_us: list[float] = []

    def of(self, done: Load) -> Load:
        """Takes the load that has just run; what the server did before, since the last one, counts with it."""
        spent_s = self._read_s()
        self._each_us.append((spent_s - self._spent_s) / len(done.latencies) * 1e6)
        self._spent_s = spent_s
        return done

    def median_us(self) -> float:
        return statistics.median(self._each_us)

    def _read_s(self) -> float:
        fields = self._stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rounds(measure: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Measures in turn, `ROUNDS` times each; gives the medians."""
    results: dict[str, list[float]] = {name: [] for name in measure}
    for _ in range(ROUNDS):
        for name, run in measure.items():
            results[name].append(run())
    return {name: statistics.median(values) for name, values in results.items()}


# --- what is measured -------------------------------------------------------------------------------------------------


class Bench:
    """Runs the sections, prints and collects the figures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.figures: dict[str, dict[str, float]] = {}

    def server(self, name: str, *flags: str, under: tuple[str, ...] = ()) -> ServerProcess:
        return ServerProcess(
            Path(tempfile.mkdtemp(dir=self.folder)),
            f"--model_name={name}",
            f"--model_base_path={self.folder / name}",
            *flags,
            under=under,
        )

    def report(self, section: str, **figures: float) -> None:
        self.figures[section] = {key: round(value, 3) for key, value in figures.items()}
        print(f"{section:16}", "  ".join(f"{key}={value:,.2f}" for key, value in figures.items()), flush=True)

    def latency(self) -> None:
        path, message = self.folder / "lstm" / "1", request_bytes("lstm", windows(1))
        with self.server("lstm") as server, self.server_of_bare(path, 1) as bare:
            medians = rounds(
                {
                    "bare_p50_ms": lambda: statistics.median(bare(ROUND_S)) * 1e3,
                    "served_p50_ms": lambda: load(server.target, message, 1).percentile_ms(50),
                }
            )
        self.report("latency", **medians, added_ms=medians["served_p50_ms"] - medians["bare_p50_ms"])

    def noop(self, section: str = "noop", under: tuple[str, ...] = ()) -> None:
        message = request_bytes("noop", windows(1))
        threads = 4 * (os.cpu_count() or 1)
        with self.server("noop", under=under) as server, contestant("echo", str(threads)) as (echo, echo_pid):
            echo_used, served_used = CpuPerRequest(echo_pid), CpuPerRequest(server.process.pid)
            medians = rounds(
                {
                    "echo_rps": lambda: echo_used.of(load(echo, message, 32)).rate,
                    "served_rps": lambda: served_used.of(load(server.target, message, 32)).rate,
                }
            )
        self.report(
            section,
            **medians,
            ratio=medians["served_rps"] / medians["echo_rps"],
            echo_cpu_us=echo_used.median_us(),
            served_cpu_us=served_used.median_us(),
        )

    def batching(self, section: str = "batching", under: tuple[str, ...] = ()) -> None:
        message = request_bytes("lstm", windows(1))
        with (
            self.server("lstm", under=under) as single,
            self.server("lstm", "--enable_batching", under=under) as batched,
        ):
            load(batched.target, message, 64)
            used = CpuPerRequest(batched.process.pid)
            medians = rounds(
                {
                    "single_rps": lambda: load(single.target, message, 1).rate,
                    "unbatched_64_rps": lambda: load(single.target, message, 64).rate,
                    "batched_64_rps": lambda: used.of(load(batched.target, message, 64)).rate,
                }
            )
        self.report(
            section,
            **medians,
            ratio=medians["batched_64_rps"] / medians["single_rps"],
            batched_cpu_us=used.median_us(),
        )

    def one_cpu(self) -> None:
        under = ("taskset", "-c", str(max(os.sched_getaffinity(0))))
        self.noop("one_cpu_noop", under)
        self.batching("one_cpu_batching", under)

    def batch256(self) -> None:
        path, message = self.folder / "lstm" / "1", request_bytes("lstm", windows(256))
        with self.server("lstm") as server, self.server_of_bare(path, 256) as bare:
            medians = rounds(
                {
                    "bare_windows_per_s": lambda: 256 / statistics.mean(bare(ROUND_S)),
                    "served_windows_per_s": lambda: 256 * load(server.target, message, 1).rate,
                }
            )
        self.report("batch256", **medians, ratio=medians["served_windows_per_s"] / medians["bare_windows_per_s"])

    def plain(self) -> None:
        threads = str(4 * (os.cpu_count() or 1))
        message = request_bytes("lstm", windows(1))
        with (
            self.server("lstm", "--enable_batching") as server,
            contestant("plain", str(self.folder / "lstm" / "1"), threads) as (plain, _),
        ):
            load(server.target, message, 32)
            medians = rounds(
                {
                    "plain_rps": lambda: load(plain, message, 32).rate,
                    "served_rps": lambda: load(server.target, message, 32).rate,
                }
            )
        self.report("plain_lstm", **medians, ratio=medians["served_rps"] / medians["plain_rps"])
        message = request_bytes("noop", windows(64 * 4))
        with (
            self.server("noop") as server,
            contestant("plain", str(self.folder / "noop" / "1"), threads) as (plain, _),
        ):
            medians = rounds(
                {
                    "plain_rps": lambda: load(plain, message, 4).rate,
                    "served_rps": lambda: load(server.target, message, 4).rate,
                }
            )
        self.report("plain_big", **medians, ratio=medians["served_rps"] / medians["plain_rps"])

    def idle(self) -> None:
        message = request_bytes("noop", windows(1))
        with self.server("noop", "--rest_api_port=-1") as server:
            medians = rounds({"alone_rps": lambda: load(server.target, message, 32).rate})
            channels = [
                grpc.insecure_channel(server.target, options=[("number", n), ("grpc.use_local_subchannel_pool", 1)])
                for n in range(500)
            ]
            for channel in channels:
                grpc.channel_ready_future(channel).result(timeout=60)
            medians |= rounds({"with_500_idle_rps": lambda: load(server.target, message, 32).rate})
            for channel in channels:
                channel.close()
        self.report("idle", **medians, ratio=medians["with_500_idle_rps"] / medians["alone_rps"])

    def swap(self, seconds: float) -> None:
        base = self.folder / "swapped"
        shutil.copytree(self.folder / "lstm" / "1", base / "1")
        message = request_bytes("swapped", windows(1))
        flags = ("--file_system_poll_wait_seconds=0.2",)
        with ServerProcess(
            Path(tempfile.mkdtemp(dir=self.folder)), "--model_name=swapped", f"--model_base_path={base}", *flags
        ) as server:
            half = load(server.target, message, 16).rate / 2
            steady = load(server.target, message, 16, 20.0, rate=half)
            stop, resident = threading.Event(), []

            def publish() -> None:
                version = 2
                while not stop.wait(2.0):
                    hidden = base / f".{version}"
                    shutil.copytree(self.folder / "lstm" / "1", hidden)
                    hidden.rename(base / str(version))
                    if version > 4:
                        shutil.rmtree(base / str(version - 3))
                    resident.append(_resident_mb(server.process.pid))
                    version += 1

            publisher = threading.Thread(target=publish, daemon=True)
            publisher.start()
            swapping = load(server.target, message, 16, seconds, rate=half)
            stop.set()
            publisher.join()
            log = server.log.read_text()
        third = max(1, len(resident) // 3)
        self.report(
            "swap",
            rate_rps=half,
            requests=len(swapping.latencies),
            failed=len(steady.failures) + len(swapping.failures),
            versions_loaded=log.count("Successfully loaded servable version {name: swapped"),
            steady_p50_ms=steady.percentile_ms(50),
            steady_p99_ms=steady.percentile_ms(99),
            swap_p50_ms=swapping.percentile_ms(50),
            swap_p99_ms=swapping.percentile_ms(99),
            swap_max_ms=swapping.percentile_ms(100),
            resident_mb_first_third=statistics.median(resident[:third]),
            resident_mb_last_third=statistics.median(resident[-third:]),
        )

    @contextmanager
    def server_of_bare(self, path: Path, batch: int):
        """The bare session call in a process of its own, idle while it is not asked."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.bench_serving", "bare", str(path), str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=REPOSITORY,
        )

        def run(seconds: float) -> list[float]:
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        run(0.1)
        try:
            yield run
        finally:
            process.stdin.close()
            process.wait()
            process.stdout.close()


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _answer_bare(path: str, batch: str) -> None:
    for line in sys.stdin:
        print(json.dumps(bare_session(Path(path), int(batch), float(line))), flush=True)


def main() -> None:
    helpers = {"models": lambda folder: write_models(Path(folder)), "bare": _answer_bare}
    helpers |= {"echo": lambda n: serve_echo(int(n)), "plain": lambda path, n: serve_plain(path, int(n))}
    if len(sys.argv) > 1 and sys.argv[1] in helpers:
        helpers[sys.argv[1]](*sys.argv[2:])
        return
    sections = ["latency", "noop", "batching", "one_cpu", "batch256", "plain", "idle", "swap"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    parser.add_argument("--swap-seconds", type=float, default=120.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "tests.benchmarks.bench_serving", "models", name]
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
        bench = Bench(folder)
        for section in arguments.only:
            if section == "swap":
                bench.swap(arguments.swap_seconds)
            else:
                getattr(bench, section)()
    if arguments.json:
        arguments.json.write_text(json.dumps({"cpus": os.cpu_count(), **bench.figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
