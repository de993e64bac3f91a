"""How the server is run: flags, files, sockets, TLS, health, warm-up, logs, and the way it ends."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from streaming.serving_protos import PredictionLog, PredictionServiceStub, PredictRequest
from streaming.tensors import encode_tensor
from tests.certificates import certificate
from tests.conformance.server_process import REPOSITORY, ServerProcess
from tests.streaming.model_server.conftest import eventually


def predict_request(name="default", x=2.0):
    request = PredictRequest(model_spec={"name": name})
    request.inputs["x"].CopyFrom(encode_tensor(np.array([x], np.float32)))
    return request


def get(server, path):
    try:
        with urllib.request.urlopen(server.rest + path, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.fixture(scope="module")
def operated(tmp_path_factory, models):
    """One server with most options on: TLS with client certificates, a Unix socket, warm-up, JSON logs, CORS."""
    folder = tmp_path_factory.mktemp("operated")
    ca_key, ca, _, ca_pem = certificate("test CA")
    _, _, key_pem, cert_pem = certificate("localhost", ca, ca_key)
    _, _, client_key, client_cert = certificate("client", ca, ca_key)
    tls = folder / "ssl.config"
    fields = {"server_key": key_pem, "server_cert": cert_pem, "custom_ca": ca_pem}
    lines = [f"{name}: {json.dumps(pem.decode())}" for name, pem in fields.items()]
    tls.write_text("\n".join([*lines, "client_verify: true"]))
    base = folder / "warm"
    subprocess.run(["cp", "-r", str(models / "half_plus_two"), str(base)], check=True)
    write_warmup(base / "123", [predict_request("another name")] * 3)
    socket_path = folder / "grpc.sock"
    with ServerProcess(
        folder / "server",
        f"--model_base_path={base}",
        f"--ssl_config_file={tls}",
        "--grpc_max_threads=6",
        f"--grpc_socket_path={socket_path}",
        f"--monitoring_config_file={models / 'monitoring.config'}",
        "--rest_api_port=-1",
        "--rest_api_enable_cors_support=true",
        "--log_format=json",
        "--enable_batching",
        "--enable_profiler=false",
    ) as server:
        server.socket_path = socket_path
        server.credentials = (ca_pem, client_key, client_cert)
        yield server


def write_warmup(version, requests):
    """Writes a TFRecord file; the masked CRC is what TensorFlow checks."""
    code = (
        "import sys, tensorflow as tf\n"
        "records = open(sys.argv[1], 'rb').read().split(b'--next--')\n"
        "with tf.io.TFRecordWriter(sys.argv[2]) as writer:\n"
        "    [writer.write(record) for record in records if record]\n"
    )
    extra = version / "assets.extra"
    extra.mkdir()
    logs = [PredictionLog(predict_log={"request": request}).SerializeToString() for request in requests]
    (extra / "raw").write_bytes(b"--next--".join(logs))
    arguments = [str(extra / "raw"), str(extra / "tf_serving_warmup_requests")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


def test_tls_asks_clients_for_a_certificate(operated):
    ca, key, cert = operated.credentials
    target = f"localhost:{operated.ports['grpc_port']}"
    with grpc.secure_channel(target, grpc.ssl_channel_credentials(ca, key, cert)) as channel:
        response = PredictionServiceStub(channel).Predict(predict_request(), timeout=10)
        assert list(response.outputs["y"].float_val) == [3.0]
    for channel in (
        grpc.secure_channel(target, grpc.ssl_channel_credentials(ca)),
        grpc.insecure_channel(target),
    ):
        with channel, pytest.raises(grpc.RpcError) as caught:
            PredictionServiceStub(channel).Predict(predict_request(), timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_unix_socket(operated):
    with grpc.insecure_channel(f"unix:{operated.socket_path}") as channel:
        response = PredictionServiceStub(channel).Predict(predict_request(), timeout=10)
        assert list(response.outputs["y"].float_val) == [3.0]


def test_warmup_records_are_run_before_the_model_is_available(operated):
    text = get(operated, "/monitoring/prometheus/metrics")[1].decode()
    (line,) = [line for line in text.splitlines() if line.startswith(":tensorflow:serving:model_warmup_records_read{")]
    assert line.endswith(" 3")
    assert 'status="OK"' in line


def test_metrics_of_batches(operated):
    with grpc.insecure_channel(f"unix:{operated.socket_path}") as channel:
        PredictionServiceStub(channel).Predict(predict_request(), timeout=10)
    text = get(operated, "/monitoring/prometheus/metrics")[1].decode()
    for name in ("queuing_latency_count", "processed_batch_size_sum", "wrapped_run_count"):
        assert f':tensorflow:serving:batching_session:{name}{{thread_pool_name="batch_threads"}}' in text
    assert ':tensorflow:serving:runtime_latency_count{model_name="default",API="Predict",runtime="TF1"}' in text


def test_health_by_every_name(operated):
    with grpc.insecure_channel(f"unix:{operated.socket_path}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "tensorflow.serving.PredictionService", "PredictionService", "ModelService"):
            eventually(lambda: health.Check(health_pb2.HealthCheckRequest(service=service)).status == 1)  # noqa: B023
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_knows_the_services(operated):
    with grpc.insecure_channel(f"unix:{operated.socket_path}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="tensorflow.serving.PredictionService"),
        ]
        services, file = stub.ServerReflectionInfo(iter(ask), timeout=10)
    names = {service.name for service in services.list_services_response.service}
    assert {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"} <= names
    assert file.file_descriptor_response.file_descriptor_proto


def test_reflection_streams_that_stay_open_hold_nobody_up(operated):
    enough = threading.Event()

    def ask():
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        enough.wait(30)

    with grpc.insecure_channel(f"unix:{operated.socket_path}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        streams = [stub.ServerReflectionInfo(ask(), timeout=60) for _ in range(4)]
        assert all(next(stream).HasField("list_services_response") for stream in streams)
        PredictionServiceStub(channel).Predict(predict_request(), timeout=10)
        enough.set()
        assert all(list(stream) == [] for stream in streams)


def test_unregistered_methods_are_unimplemented(operated):
    with grpc.insecure_channel(f"unix:{operated.socket_path}") as channel:
        call = channel.unary_unary("/tensorflow.serving.SessionService/SessionRun")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_pages_outside_v1(operated):
    assert get(operated, "/healthz")[0] == 200
    eventually(lambda: get(operated, "/readyz")[0] == 200)
    status, body = get(operated, "/models")
    assert status == 200
    entry = {"version": "123", "state": "AVAILABLE", "error": ""}
    assert json.loads(body) == {"models": [{"name": "default", "labels": {}, "versions": [entry]}]}


def test_cors(operated):
    def options(**headers):
        request = urllib.request.Request(operated.rest + "/v1/models/default", headers=headers, method="OPTIONS")
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers

    status, headers = options(Origin="https://example.org")
    assert status == 200
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Access-Control-Allow-Methods"] == "POST, GET"
    assert headers["Access-Control-Allow-Headers"] == "Content-Type"
    assert options()[0] == 400


def test_logs_are_json(operated):
    lines = [line for line in operated.log.read_text().splitlines() if line.startswith("{")]
    entries = [json.loads(line) for line in lines]
    assert any("Successfully loaded servable version" in entry["message"] for entry in entries)
    assert {"time", "severity", "logger", "message"} <= entries[0].keys()


def raw(server, data):
    """Sends bytes to the REST port; gives everything that comes back."""
    with socket.create_connection(("127.0.0.1", server.ports["rest_port"]), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


CHUNKS = b'8\r\n{"instan\r\nd\r\nces": [[2]] }\r\n0\r\n\r\n'
RAW = {
    "two in a row": (b"GET /healthz HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", b"200", 2),
    "chunks": (
        b"POST /v1/models/default:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%b" % CHUNKS,
        b"200",
        1,
    ),
    "no request": (b"nonsense\r\n\r\n", b"400", 1),
    "header without colon": (b"GET / HTTP/1.1\r\nnonsense\r\n\r\n", b"400", 1),
    "length no number": (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400", 1),
    "two lengths": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"400", 1),
    "length and chunks": (
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"400",
        1,
    ),
    "too long": (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413", 1),
    "huge header": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"431", 1),
    "bad chunk": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", b"400", 1),
    "bad gzip": (b"POST / HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab", b"400", 1),
    "other encoding": (b"POST / HTTP/1.1\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\nab", b"415", 1),
    "cut short": (b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nab", b"", 0),
}


@pytest.mark.parametrize(("data", "status", "count"), RAW.values(), ids=RAW)
def test_http_on_the_wire(operated, data, status, count):
    assert raw(operated, data).count(b"HTTP/1.1 " + status) == count


def test_config_file_is_read_again_and_sigterm_drains(tmp_path, models):
    """Row C23, then the end: running requests are answered, new ones refused, and the exit status is 0."""
    config = tmp_path / "models.config"

    def serve(folder):
        entry = f'name: "m" base_path: "{folder}" model_platform: "tensorflow"'
        config.write_text(f"model_config_list {{ config {{ {entry} }} }}")

    serve(models / "half_plus_two")
    slow = tmp_path / "batching.pbtxt"
    slow.write_text("max_batch_size { value: 4 } batch_timeout_micros { value: 700000 }")
    server = ServerProcess(
        tmp_path / "server",
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=0.2",
        "--enable_batching",
        f"--batching_parameters_file={slow}",
    )
    with server:
        assert server.prediction.Predict(predict_request("m")).outputs["y"].float_val[0] == 3.0
        serve(models / "half_plus_three")
        eventually(lambda: server.prediction.Predict(predict_request("m")).outputs["y"].float_val[0] == 4.0)
        config.write_text("no config at all {")
        time.sleep(0.5)
        assert server.prediction.Predict(predict_request("m")).outputs["y"].float_val[0] == 4.0

        running = [server.prediction.Predict.future(predict_request("m"), timeout=10)]
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        assert running[0].result().outputs["y"].float_val[0] == 4.0
        assert server.process.wait(20) == 0
        with pytest.raises(grpc.RpcError) as caught:
            server.prediction.Predict(predict_request("m"), timeout=5)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def run_server(*flags):
    command = [sys.executable, "-m", "streaming.model_server.main", *flags]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)


def test_c22_a_malformed_config_file_ends_the_server(tmp_path):
    config = tmp_path / "models.config"
    config.write_text("improperly formatted file")
    done = run_server("--port=0", f"--model_config_file={config}")
    assert done.returncode == 1
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--no_such_flag=1"],
        ["--port=x", "--model_base_path=/m"],
        ["--model_base_path=/m", "--log_format=xml"],
        ["--model_base_path=/m", "--enable_batching=perhaps"],
    ],
)
def test_wrong_flags_end_with_a_line(flags):
    done = run_server(*flags)
    assert done.returncode == 2
    assert "tidegauge-model-server: error:" in done.stderr


def test_a_deadline_that_has_passed_costs_no_run(operated):
    with grpc.insecure_channel(f"unix:{operated.socket_path}") as channel:
        stub = PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(predict_request(), timeout=1e-6)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_it_binds_loopback_only(operated):
    tables = "".join(Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6"))
    listening = [line.split()[1] for line in tables.splitlines() if len(line.split()) > 3 and line.split()[3] == "0A"]
    ours = [entry for entry in listening if int(entry.split(":")[1], 16) in operated.ports.values()]
    assert ours
    assert all(entry.split(":")[0].endswith("0100007F") for entry in ours)


def test_many_slow_connections_leave_the_server_responsive(operated):
    held = [socket.create_connection(("127.0.0.1", operated.ports["rest_port"])) for _ in range(200)]
    for connection in held:
        connection.sendall(b"POST /v1/models/default:predict HTTP/1.1\r\nContent-Le")
    started = time.monotonic()
    assert get(operated, "/healthz")[0] == 200
    assert time.monotonic() - started < 2
    for connection in held:
        connection.close()


def test_concurrent_rest_requests(operated):
    wrong = []

    def client(value):
        body = json.dumps({"instances": [value]}).encode()
        for _ in range(20):
            request = urllib.request.Request(operated.rest + "/v1/models/default:predict", data=body)
            with urllib.request.urlopen(request, timeout=10) as response:
                if json.load(response) != {"predictions": [value / 2 + 2]}:
                    wrong.append(value)

    threads = [threading.Thread(target=client, args=(float(value),)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
