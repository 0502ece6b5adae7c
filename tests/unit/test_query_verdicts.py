"""What is remembered of tokens: for how long, how many, and what is not; tests/integration has the API server."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sensorlog_query.authentication import Verdict, Verdicts
from sensorlog_query.errors import UnavailableError
from support.waiting import wait_until


class Judge:
    """Answers for tokens by their first word, and counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, token: str) -> Verdict:
        """Return the verdict that the token begins with."""
        self.asked.append(token)
        return Verdict(token.split("-", maxsplit=1)[0])


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_is_remembered(verdict: Verdict) -> None:
    """Refusals too: who is refused does not stop asking."""
    judge = Judge()
    verdicts = Verdicts(judge, seconds=60)
    assert [verdicts.of(f"{verdict.value}-1") for _ in range(3)] == [verdict] * 3
    assert len(judge.asked) == 1


def test_a_verdict_is_forgotten_in_time() -> None:
    """Then the API server is asked anew."""
    judge = Judge()
    verdicts = Verdicts(judge, seconds=0.2)
    verdicts.of("admitted-1")
    wait_until(lambda: verdicts.of("admitted-1") and len(judge.asked) == 2, deadline=10, what="a second question")


def test_a_flood_of_tokens_takes_no_more_memory_than_the_limit() -> None:
    """The oldest are pushed out, and no token itself is kept."""
    judge = Judge()
    verdicts = Verdicts(judge, seconds=60, limit=10)
    for n in range(1000):
        verdicts.of(f"unknown-{n}")
    assert len(verdicts._known) == 10
    assert not verdicts._asking
    assert all(len(key) == 32 for key in verdicts._known)


def test_an_api_server_that_is_away_is_no_verdict() -> None:
    """The next call asks again."""
    answers = iter([UnavailableError("away"), None])

    def ask(_token: str) -> Verdict:
        if (error := next(answers)) is not None:
            raise error
        return Verdict.ADMITTED

    verdicts = Verdicts(ask, seconds=60)
    with pytest.raises(UnavailableError):
        verdicts.of("admitted-1")
    assert verdicts.of("admitted-1") is Verdict.ADMITTED


def test_calls_at_the_same_time_ask_once() -> None:
    """A client with many calls costs the API server one question."""
    judge, go = Judge(), threading.Event()

    def ask(token: str) -> Verdict:
        go.wait(10)
        return judge(token)

    verdicts = Verdicts(ask, seconds=60)
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(verdicts.of, "admitted-1") for _ in range(8)]
        go.set()
        assert {call.result(10) for call in calls} == {Verdict.ADMITTED}
    assert judge.asked == ["admitted-1"]
