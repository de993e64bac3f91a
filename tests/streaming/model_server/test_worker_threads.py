"""The threads that run gRPC's calls."""

import logging
import threading

from streaming.model_server.worker_threads import WorkerThreads


def test_a_call_that_fails_costs_no_thread(caplog):
    threads = WorkerThreads(1, "test")
    ran = threading.Event()
    with caplog.at_level(logging.ERROR):
        threads.submit(lambda: 1 / 0)
        threads.submit(ran.set)
        assert ran.wait(10)
    threads.shutdown()
    assert "ZeroDivisionError" in caplog.text


def test_all_that_was_submitted_runs_side_by_side_and_before_the_end():
    threads = WorkerThreads(4, "test")
    together = threading.Barrier(4)
    numbers = []

    def run(number):
        together.wait(10)
        numbers.append(number)

    for number in range(64):
        threads.submit(run, number)
    threads.shutdown()
    assert sorted(numbers) == list(range(64))
    assert not any(thread.name.startswith("test-") for thread in threading.enumerate())
