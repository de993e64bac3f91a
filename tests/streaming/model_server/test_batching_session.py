"""The batching of requests, on executables that say what they were given."""

import json
import threading
import time
import urllib.request

import numpy as np
import pytest

from streaming.model_server.batching_parameters import BatchingParameters, batching_parameters
from streaming.model_server.batching_session import BatchingExecution, BatchScheduler
from streaming.model_server.call import UNBOUNDED, Call
from streaming.model_server.config_protos import read_config
from streaming.model_server.metrics import Metrics
from streaming.model_server.sequence_padding import SequencePadding, read_sequence_padding
from streaming.model_server.signature import TensorRef
from streaming.model_server.status import Code, StatusError
from streaming.serving_protos import PredictRequest
from streaming.tensors import decode_tensor, encode_tensor
from tests.conformance.server_process import ServerProcess

X = TensorRef("s", "x", "x:0", 1)
MASK = TensorRef("s", "mask", "mask:0", 10)


class Model:
    """Doubles its input, remembers the batches, and can be held while it runs."""

    def __init__(self):
        self.batches = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, x):
        self.batches.append(x.copy())
        self.entered.release()
        assert self.free.wait(10)
        if (x < 0).any():
            raise StatusError(Code.INVALID_ARGUMENT, "negative")
        return [x * 2]


def execution_of(model, padding=None, feeds=(X,), **parameters):
    scheduler = BatchScheduler(BatchingParameters(**{"num_batch_threads": 1, **parameters}), Metrics())
    return BatchingExecution(scheduler, {"s": padding} if padding else {})(model, feeds)


class Background:
    """One request in a thread of its own."""

    def __init__(self, execution, *arrays, call=UNBOUNDED):
        self.result = self.error = None

        def run():
            try:
                self.result = execution(list(arrays), call)[0].tolist()
            except StatusError as error:
                self.error = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def join(self):
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self


def rows(*values):
    return np.array(values, np.float32).reshape(-1, 1)


def blocked(model, execution):
    """A request that occupies the only slot until the model is freed."""
    model.free.clear()
    first = Background(execution, rows(0))
    assert model.entered.acquire(timeout=10)
    return first


def wait_until_queued(execution, count):
    scheduler = execution._scheduler
    give_up = time.monotonic() + 10
    while sum(len(queue.tasks) for queue in scheduler._queues.values()) < count:
        assert time.monotonic() < give_up
        time.sleep(0.001)


def test_an_idle_server_runs_a_request_at_once():
    model = Model()
    assert execution_of(model)([rows(1, 2)], UNBOUNDED)[0].tolist() == [[2], [4]]
    assert len(model.batches) == 1


def test_what_waits_runs_together_and_rows_are_not_mixed():
    model = Model()
    execution = execution_of(model)
    first = blocked(model, execution)
    others = [Background(execution, rows(*range(n, 2 * n))) for n in range(1, 9)]
    wait_until_queued(execution, 8)
    model.free.set()
    assert first.join().result == [[0]]
    for n, other in enumerate(others, start=1):
        assert other.join().result == [[2 * value] for value in range(n, 2 * n)]
    assert [len(batch) for batch in model.batches] == [1, 36]


def test_a_batch_takes_no_more_than_its_size_and_the_oldest_first():
    model = Model()
    execution = execution_of(model, max_batch_size=4)
    first = blocked(model, execution)
    others = []
    for value in range(1, 7):
        others.append(Background(execution, rows(value, value)))
        wait_until_queued(execution, value)
    model.free.set()
    for value, other in enumerate(others, start=1):
        assert other.join().result == [[2 * value]] * 2
    first.join()
    assert [batch[:, 0].tolist() for batch in model.batches] == [[0], [1, 1, 2, 2], [3, 3, 4, 4], [5, 5, 6, 6]]


def test_shapes_do_not_share_a_batch():
    model = Model()
    execution = execution_of(model)
    first = blocked(model, execution)
    others = [Background(execution, np.ones((1, width), np.float32)) for width in (1, 2, 1, 2)]
    wait_until_queued(execution, 4)
    model.free.set()
    for other in (first, *others):
        assert other.join().error is None
    assert sorted(batch.shape for batch in model.batches) == [(1, 1), (2, 1), (2, 2)]


def test_e7_a_full_queue_refuses():
    model = Model()
    execution = execution_of(model, max_batch_size=2, max_enqueued_batches=2)
    first = blocked(model, execution)
    others = [Background(execution, rows(1)) for _ in range(4)]
    wait_until_queued(execution, 4)
    with pytest.raises(StatusError, match="The batch scheduling queue to which this task was submitted is full") as e:
        execution([rows(1)], UNBOUNDED)
    assert e.value.code is Code.UNAVAILABLE
    model.free.set()
    assert all(other.join().error is None for other in (first, *others))


def test_expired_and_cancelled_work_is_dropped():
    model = Model()
    execution = execution_of(model)
    first = blocked(model, execution)
    expired = Background(execution, rows(1), call=Call(time.monotonic() + 0.05)).join()
    assert expired.error.code is Code.DEADLINE_EXCEEDED
    gone = threading.Event()
    cancelled = Background(execution, rows(2), call=Call(cancelled=gone.is_set))
    kept = Background(execution, rows(3))
    wait_until_queued(execution, 3)
    gone.set()
    model.free.set()
    assert cancelled.join().error.code is Code.CANCELLED
    assert kept.join().result == [[6]]
    first.join()
    assert [batch[:, 0].tolist() for batch in model.batches] == [[0], [3]]


def test_who_leaves_while_the_batch_runs_keeps_nobody_waiting():
    model = Model()
    execution = execution_of(model, batch_timeout_s=30.0, max_batch_size=9)
    model.free.clear()
    expires = Call(time.monotonic() + 0.5)
    waiting = [Background(execution, rows(n), call=expires if n % 3 != 1 else UNBOUNDED) for n in range(9)]
    assert model.entered.acquire(timeout=10)
    left = [waiting[n].join().error.code for n in range(9) if n % 3 != 1]
    assert left == [Code.DEADLINE_EXCEEDED] * 6
    model.free.set()
    assert [waiting[n].join().result for n in (1, 4, 7)] == [[[2]], [[8]], [[14]]]
    assert [len(batch) for batch in model.batches] == [9]


def test_a_request_that_spoils_a_batch_fails_alone():
    model = Model()
    execution = execution_of(model)
    first = blocked(model, execution)
    good, bad = Background(execution, rows(1)), Background(execution, rows(-1))
    wait_until_queued(execution, 2)
    model.free.set()
    assert good.join().result == [[2]]
    assert bad.join().error.message == "negative"
    first.join()


def test_allowed_sizes_are_filled_with_the_first_row():
    model = Model()
    execution = execution_of(model, max_batch_size=8, allowed_batch_sizes=(2, 8))
    assert execution([rows(5, 6, 7)], UNBOUNDED)[0].tolist() == [[10], [12], [14]]
    assert [batch[:, 0].tolist() for batch in model.batches] == [[5, 6, 7, 5, 5, 5, 5, 5]]


def test_large_requests_are_split_where_allowed():
    model = Model()
    execution = execution_of(model, max_batch_size=4, enable_large_batch_splitting=True, max_execution_batch_size=3)
    assert execution([rows(*range(8))], UNBOUNDED)[0].ravel().tolist() == [2 * value for value in range(8)]
    assert [len(batch) for batch in model.batches] == [3, 3, 2]


def test_e4_inputs_need_one_number_of_rows():
    execution = execution_of(lambda x, mask: [x], feeds=(X, MASK))
    with pytest.raises(StatusError, match="Batching Run\\(\\) input tensors must have equal 0th-dimension size"):
        execution([rows(1, 2), rows(1)], UNBOUNDED)


def test_outputs_must_have_the_rows_of_the_inputs():
    with pytest.raises(StatusError, match="0th dimension"):
        execution_of(lambda x: [x[:1]])([rows(1, 2)], UNBOUNDED)
    with pytest.raises(StatusError, match="0 dimensions"):
        execution_of(lambda x: [x.sum()])([rows(1, 2)], UNBOUNDED)


def test_a_timeout_waits_for_more_and_no_longer():
    model = Model()
    execution = execution_of(model, max_batch_size=3, batch_timeout_s=0.3)
    started = time.monotonic()
    full = [Background(execution, rows(value)) for value in range(3)]
    assert all(request.join().error is None for request in full)
    assert time.monotonic() - started < 0.25
    assert [len(batch) for batch in model.batches] == [3]
    started = time.monotonic()
    execution([rows(1)], UNBOUNDED)
    assert 0.25 < time.monotonic() - started < 2


def test_many_clients_lose_nothing():
    model = Model()
    execution = execution_of(model, max_batch_size=16, num_batch_threads=2)
    wrong = []

    def client(seed):
        random = np.random.default_rng(seed)
        for _ in range(100):
            x = random.integers(0, 1000, (random.integers(1, 5), random.integers(1, 3))).astype(np.float32)
            if not np.array_equal(execution([x], UNBOUNDED)[0], 2 * x):
                wrong.append(x)

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert not execution._scheduler._queues


def masked_mean(x, mask):
    return [(x * mask).sum(axis=1) / mask.sum(axis=1), np.cumsum(x, axis=1)]


def test_e11_lengths_share_a_bucket_and_results_stay():
    seen = []

    def model(x, mask):
        seen.append(x.shape)
        return masked_mean(x, mask)

    padding = SequencePadding({"x": 99.0, "mask": False}, (4, 8), cut=True)
    execution = execution_of(model, padding, (X, MASK))
    for length in range(1, 11):
        x = np.arange(2 * length, dtype=np.float32).reshape(2, length)
        mask = np.ones((2, length), bool)
        mean, sums = execution([x, mask], UNBOUNDED)
        alone_mean, alone_sums = masked_mean(x, mask)
        assert np.array_equal(mean, alone_mean)
        assert np.array_equal(sums, alone_sums)
    assert sorted(set(seen)) == [(2, 4), (2, 8), (2, 9), (2, 10)]


def test_e11_an_lstm_and_attention_give_the_same_for_every_mix_of_lengths(models, tmp_path):
    alone = np.load(models / "masked_sequences" / "alone.npz")
    flags = (
        "--model_name=m",
        f"--model_base_path={models / 'masked_sequences'}",
        "--enable_batching",
        "--rest_api_port=-1",
        f"--monitoring_config_file={models / 'monitoring.config'}",
    )
    differences = []
    with ServerProcess(tmp_path, *flags) as server:

        def client(seed):
            random = np.random.default_rng(seed)
            for length in random.permutation(np.arange(1, 13)):
                request = PredictRequest(model_spec={"name": "m"})
                request.inputs["values"].CopyFrom(encode_tensor(inputs[length]))
                request.inputs["observed"].CopyFrom(encode_tensor(np.ones((2, length), bool)))
                y = decode_tensor(server.prediction.Predict(request, timeout=60).outputs["y"])
                differences.append(np.abs(y - expected[length]).max())

        inputs = {length: alone[f"x{length}"] for length in range(1, 13)}
        expected = {length: alone[f"y{length}"] for length in range(1, 13)}
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with urllib.request.urlopen(server.rest + "/monitoring/prometheus/metrics", timeout=10) as page:
            text = page.read().decode()
    alone.close()
    assert len(differences) == 144
    assert max(differences) < 1e-5
    name = ":tensorflow:serving:batching_session:wrapped_run_count{"
    (batches,) = [line for line in text.splitlines() if line.startswith(name)]
    assert int(batches.split()[-1]) < 144


@pytest.mark.parametrize(
    "declared",
    [
        [],
        {"s": {"pads": {}}},
        {"s": {"pad": {"x": "0"}}},
        {"s": {"buckets": [0]}},
        {"s": {"cut": 1}},
    ],
)
def test_a_malformed_declaration_is_refused(tmp_path, declared):
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "model.json").write_text(json.dumps({"sequence_padding": declared}))
    with pytest.raises(StatusError, match="sequence_padding"):
        read_sequence_padding(tmp_path)


def test_a_folder_without_declaration_pads_nothing(tmp_path):
    assert read_sequence_padding(tmp_path) == {}


def parameters_of(tmp_path, text):
    file = tmp_path / "batching.pbtxt"
    file.write_text(text)
    return batching_parameters(read_config("BatchingParameters", file))


def test_parameters_file_as_for_tensorflow_serving(tmp_path):
    parameters = parameters_of(
        tmp_path,
        """
        max_batch_size { value: 128 }
        batch_timeout_micros { value: 500 }
        max_enqueued_batches { value: 7 }
        num_batch_threads { value: 3 }
        thread_pool_name { value: "pool" }
        allowed_batch_sizes: 32
        allowed_batch_sizes: 128
        """,
    )
    assert parameters == BatchingParameters(128, 0.0005, 7, 3, (32, 128), False, 128, "pool")


@pytest.mark.parametrize(
    "text",
    [
        "max_batch_size { value: 0 }",
        "max_batch_size { value: 8 } allowed_batch_sizes: 4",
        "max_batch_size { value: 8 } allowed_batch_sizes: 8 allowed_batch_sizes: 4",
        "batch_timeout_micros { value: -1 }",
        "pad_variable_length_inputs: true",
        "no_such_field: 1",
    ],
)
def test_wrong_parameters_are_refused(tmp_path, text):
    with pytest.raises(StatusError):
        parameters_of(tmp_path, text)
