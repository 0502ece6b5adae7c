"""Messages made from arrays are the messages that protobuf itself makes."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sensorlog.rpc import logger_pb2 as pb
from sensorlog_query.packed import export_reply

INT64 = st.integers(-(2**63), 2**63 - 1)
NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), unique=True, max_size=4)


@given(st.data(), st.integers(0, 300), NAMES, st.sampled_from("<>"))
def test_every_byte_is_as_protobuf_has_it(data: st.DataObject, rows: int, names: list[str], order: str) -> None:
    """Whatever the length, the names and the arrays' order of bytes; NaN keeps its bits."""
    integers = st.lists(INT64, min_size=rows, max_size=rows)
    doubles = st.lists(st.floats(), min_size=rows, max_size=rows)
    ts, sensor_id = (np.array(data.draw(integers), order + "i8") for _ in range(2))
    columns = {name: np.array(data.draw(doubles), order + "f8") for name in names}
    expected = pb.ExportSensorDataReply(
        ts=ts.tolist(),
        sensor_id=sensor_id.tolist(),
        columns=[pb.Column(name=name, values=values.tolist()) for name, values in columns.items()],
    )
    reply = export_reply(ts, sensor_id, columns)
    assert reply.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


def test_columns_of_a_block_need_not_lie_side_by_side() -> None:
    """They are fields of rows, as COPY sends them."""
    rows = np.array([(1, 2, 3.5), (4, 5, 6.5)], [("ts", ">i8"), ("sensor", ">i8"), ("cpu", ">f8")])
    reply = export_reply(rows["ts"], rows["sensor"], {"cpu": rows["cpu"]})
    assert (list(reply.ts), list(reply.sensor_id), list(reply.columns[0].values)) == ([1, 4], [2, 5], [3.5, 6.5])
