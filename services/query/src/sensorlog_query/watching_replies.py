"""What there is to tell a watcher, as messages of the contract."""

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.timestamps import from_microseconds
from sensorlog_query import watching_position
from sensorlog_query.replies import Replies
from sensorlog_query.watching_buffer import Entry, Missed


def reply(replies: Replies, schema: str, entry: Entry, *, continues: bool) -> pb.WatchSensorDataReply:
    """Return the message of `entry`; without a token where the next one `continues` it."""
    encoded = b"" if entry.readings is None else replies.readings(entry.readings)
    message = pb.WatchSensorDataReply.FromString(encoded)
    if not continues:
        message.resume_token = watching_position.encode(entry.position, schema)
    if entry.missed is not None:
        message.missed.CopyFrom(_missed(replies, entry.missed))
    if entry.staleness is not None:
        message.staleness_ms = entry.staleness
    return message


def _missed(replies: Replies, missed: Missed) -> pb.Missed:
    return pb.Missed(
        reason=missed.reason.value,
        start_ts=None if missed.first_us is None else from_microseconds(missed.first_us, replies.unit),
        end_ts=None if missed.last_us is None else from_microseconds(missed.last_us, replies.unit) + 1,
        count=missed.count,
    )
