"""Page tokens survive the way to the caller and back, and nothing else passes for one."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorlog_query.errors import InvalidArgumentError
from sensorlog_query.microseconds import Moment
from sensorlog_query.page_token import VERSION, Position, decode, encode, fingerprint

INT64 = st.integers(-(2**63), 2**63 - 1)
POSITIONS = st.builds(Position, time=INT64.map(Moment), sensor_id=INT64, returned=st.integers(0, 2**32 - 1))
BOUND = fingerprint("slp_test", (1, 2))


@given(POSITIONS)
def test_a_token_gives_its_position_back(position: Position) -> None:
    """All of int64, in characters that need no escaping anywhere."""
    token = encode(position, BOUND)
    assert decode(token, BOUND) == position
    assert token.isascii()
    assert token.replace("-", "").replace("_", "").rstrip("=").isalnum()


@given(st.text())
def test_other_text_is_refused(text: str) -> None:
    """Whatever a caller sends, the answer is INVALID_ARGUMENT for page_token."""
    with pytest.raises(InvalidArgumentError, match=r"^page_token: "):
        decode(text, BOUND)


@given(POSITIONS, st.data())
def test_a_changed_byte_is_noticed(position: Position, data: st.DataObject) -> None:
    """A damaged token never leads to some other page."""
    raw = bytearray(base64.urlsafe_b64decode(encode(position, BOUND)))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidArgumentError, match=r"^page_token: "):
        decode(base64.urlsafe_b64encode(raw).decode(), BOUND)


def test_a_token_of_another_version_is_refused() -> None:
    """After an upgrade that changes tokens, callers start again instead of reading on at a wrong place."""
    raw = bytearray(base64.urlsafe_b64decode(encode(Position(Moment(1), 2, 3), BOUND)))
    raw[0] = VERSION + 1
    with pytest.raises(InvalidArgumentError, match="not a token of this service"):
        decode(base64.urlsafe_b64encode(raw).decode(), BOUND)
