"""Pages are made in bulk, and hold the same messages as if each were made by itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorlog.rpc import logger_pb2 as pb
from sensorlog_query.microseconds import Moment
from sensorlog_query.replies import Replies

NUMBER = st.none() | st.floats(allow_nan=False)


@pytest.mark.parametrize("names", [("temperature", "cpu"), ("cpu",), ("humidity", "temperature"), ("a", "b", "c")])
@given(data=st.data())
def test_a_page_is_made_of_the_messages_of_its_rows(names: tuple[str, ...], data: st.DataObject) -> None:
    """Whichever measurements have fields of their own, NULLs included."""
    moments = st.integers(-(10**15), 10**15).map(Moment)
    rows = data.draw(st.lists(st.tuples(moments, st.integers(-(2**63), 2**63 - 1), *(NUMBER for _ in names))))
    replies = Replies("ms", names)
    page = pb.ListSensorDataReply(results=replies.readings(rows))
    assert page == pb.ListSensorDataReply(results=map(replies.reading, rows))
