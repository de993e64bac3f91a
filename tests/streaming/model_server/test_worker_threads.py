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


def test_calls_that_wait_do_so_side_by_side_and_end_before_the_threads():
    threads = WorkerThreads(4, "test")
    together = threading.Barrier(4)
    numbers = []

    def run(number):
        threads.step_aside()
        together.wait(10)
        numbers.append(number)

    for number in range(64):
        threads.submit(run, number)
    threads.shutdown()
    assert sorted(numbers) == list(range(64))
    assert not any(thread.name.startswith("test-") for thread in threading.enumerate())


def test_few_calls_are_taken_at_a_time_until_one_of_them_waits():
    threads = WorkerThreads(8, "test")
    taken, go_on = threading.Semaphore(0), threading.Event()

    def run(waits):
        if waits:
            threads.step_aside()
        taken.release()
        go_on.wait(10)

    for waits in (False, True, True, False, True):
        threads.submit(run, waits)
    # One that does not wait, two that do, and another that does not: the last has to wait for its turn.
    assert all(taken.acquire(timeout=10) for _ in range(4))
    assert not taken.acquire(timeout=0.2)
    go_on.set()
    assert taken.acquire(timeout=10)
    threads.shutdown()
