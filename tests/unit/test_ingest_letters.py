"""Dead letters on their way to a replay: the protocol, the batches, and what is left of a letter."""

import itertools
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorlog.letters import LetterId, Request, Returned, Selection, read_answer, read_request, request_lines
from sensorlog.rpc.logger_pb2 import SensorData, SensorDataList
from sensorlog_ingest.dead_letters import dead_letter_again, headers_as_json
from sensorlog_ingest.messages import is_protobuf
from sensorlog_ingest.rejections import Reason, Rejection
from sensorlog_ingest.replay import Replacement
from sensorlog_ingest.stored_letters import MAX_BYTES, MAX_LETTERS, Peeked, StoredLetter, bounded, headers_of_json
from support.messages import PROTOBUF, FakeMessage, Header, json_message

NOW = datetime(2026, 3, 4, tzinfo=UTC)


@given(st.binary(max_size=200_000))
def test_both_ends_of_the_protocol_agree(replacement: bytes) -> None:
    """A request and any replacement survive, and the empty line ends: what follows is not read."""
    selection = Selection(ids=(LetterId("t", 0, 1),), reason="x", newer_than=1.5, until=NOW)
    request = Request(action="replay", selection=selection, dry_run=True, replacement="json")
    lines = iter([*(f"{line}\n" for line in request_lines(request, replacement)), "not read"])
    assert read_request(lines) == (request, replacement)
    assert list(lines) == ["not read"]


@given(st.text(min_size=1))
def test_lines_are_ascii_and_survive(detail: str) -> None:
    """An exec stream decodes each frame by itself, and a frame may end within a character."""
    returned = Returned(id=LetterId("t", 0, 1), reason="wrong_type", detail=detail)
    assert returned.line().isascii()
    assert "\n" not in returned.line()
    assert read_answer(returned.line()) == returned


@pytest.mark.parametrize("line", ["", "{}", '{"action": "drop"}', '{"action": "list", "limit": 0}', "[" * 100_000])
def test_requests_that_are_none_are_refused(line: str) -> None:
    """As ValueError, which the program answers."""
    with pytest.raises(ValueError, match=r".+"):
        read_request(iter([line]))


def peeked(*sizes: int) -> list[Peeked]:
    """Return letters with values of these sizes."""
    return [Peeked(LetterId("t", 0, offset), NOW, size) for offset, size in enumerate(sizes)]


@given(st.lists(st.sampled_from([0, 1, MAX_BYTES // 3, MAX_BYTES, 3 * MAX_BYTES]), max_size=30))
def test_batches_are_bounded_in_bytes_and_nothing_is_left_out(sizes: list[int]) -> None:
    """Only a letter that is larger by itself makes a larger batch, alone."""
    batches = list(bounded(peeked(*sizes)))
    assert list(itertools.chain.from_iterable(batches)) == peeked(*sizes)
    assert all(len(batch) == 1 or sum(each.value_bytes for each in batch) <= MAX_BYTES for batch in batches)
    # No batch could have taken the first letter of the next.
    for batch, following in itertools.pairwise(batches):
        assert sum(each.value_bytes for each in batch) + following[0].value_bytes > MAX_BYTES


def test_batches_are_bounded_in_letters() -> None:
    """Empty values fill a batch as well."""
    assert [len(batch) for batch in bounded(peeked(*[0] * (2 * MAX_LETTERS + 1)))] == [MAX_LETTERS, MAX_LETTERS, 1]


@given(st.lists(st.tuples(st.text().filter(lambda name: "\0" not in name), st.none() | st.binary()), max_size=5))
def test_headers_survive_the_table(headers: list[Header]) -> None:
    """Whatever bytes they had, in their order; a letter that goes back twice has the same headers."""
    stored = headers_as_json(FakeMessage(b"", the_headers=headers))
    read = headers_of_json(None if stored is None else json.loads(stored))
    as_bytes = [(name, value.encode() if isinstance(value, str) else value) for name, value in read]
    assert as_bytes == headers
    assert headers_as_json(FakeMessage(b"", the_headers=read)) == stored


def test_detail_of_what_goes_back_counts_in_what_goes_back() -> None:
    """The array that the first detail counted in is gone; the first reading's reason is the letter's."""
    message = json_message([{"n": n} for n in range(6)])
    rejections = [Rejection(Reason.MISSING_TS, "b", 5), Rejection(Reason.OUT_OF_RANGE, "a", 2)]
    letter = dead_letter_again(message, rejections)
    assert json.loads(letter.value or b"") == [{"n": 2}, {"n": 5}]
    assert letter.reason is Reason.OUT_OF_RANGE
    assert letter.detail == "reading 0: out_of_range: a\nreading 1: missing_ts: b"


def test_detail_of_a_whole_message_counts_nothing() -> None:
    """It was rejected as a whole, and goes back as a whole."""
    letter = dead_letter_again(FakeMessage(b"[{"), [Rejection(Reason.NOT_JSON, "cut off")])
    assert (letter.value, letter.detail) == (b"[{", "not_json: cut off")


@pytest.mark.parametrize("sent", [(), PROTOBUF, (("trace", b"x"), *PROTOBUF, ("CONTENT-TYPE", "text/plain"))])
def test_corrected_value_is_decoded_as_what_it_is(sent: tuple[Header, ...]) -> None:
    """Whatever the headers said of the value before; the other headers stay."""
    letter = StoredLetter(LetterId("t", 0, 1), NOW, b"key", b"broken", sent)
    value = SensorDataList(items=[SensorData(ts=1)]).SerializeToString()
    as_json, as_protobuf = Replacement(b"{}", "json").of(letter), Replacement(value, "protobuf").of(letter)
    assert (is_protobuf(as_json), is_protobuf(as_protobuf)) == (False, True)
    assert (as_json.value(), as_protobuf.value(), as_json.key()) == (b"{}", value, b"key")
    assert [name for name, _ in as_json.headers()] == [name for name, _ in sent if name == "trace"]
