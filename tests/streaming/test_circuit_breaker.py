from streaming.circuit_breaker import FIRST_WAIT_S, LONGEST_WAIT_S, CircuitBreaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def wait_of(breaker: CircuitBreaker, clock: Clock) -> float:
    """Trips it, and how long it takes until it may be probed."""
    breaker.trip("away")
    began = clock.now
    assert not breaker.may_probe()
    while not breaker.may_probe():
        clock.now += 0.01
    return clock.now - began


def test_opens_probes_and_closes() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    assert (breaker.state, breaker.may_probe()) == ("closed", False)
    breaker.trip("nobody there")
    assert (breaker.state, breaker.reason, breaker.may_probe()) == ("open", "nobody there", False)
    clock.now += LONGEST_WAIT_S
    assert breaker.may_probe()
    assert breaker.state == "half-open"
    breaker.close()
    assert (breaker.state, breaker.reason) == ("closed", "")


def test_waits_double_until_a_request_is_answered() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    for number in range(8):
        longest = min(FIRST_WAIT_S * 2**number, LONGEST_WAIT_S)
        assert longest / 2 <= wait_of(breaker, clock) <= longest + 0.02
        breaker.close()  # a probe that is answered does not yet make the waits short again
    breaker.answered()
    assert wait_of(breaker, clock) <= FIRST_WAIT_S + 0.02
