"""The methods of the contract: request to query, query to rows, rows to reply."""

# ruff: noqa: N802 -- the contract names the methods

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import grpc

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc import logger_pb2_grpc
from sensorlog_query import watching_position
from sensorlog_query.averages import Averages
from sensorlog_query.calls import Call
from sensorlog_query.exports import Exports
from sensorlog_query.metrics import Metrics
from sensorlog_query.readings import Readings
from sensorlog_query.replies import Replies
from sensorlog_query.validation import Validator, page_of
from sensorlog_query.watching import LIMIT_SECONDS, Watches, WatchQuery
from sensorlog_query.watching_replies import reply as watching_reply


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a call may take, in seconds, where its caller allows more."""

    unary_seconds: float
    export_seconds: float


@dataclass(frozen=True, slots=True)
class Answers:
    """Who knows the answers."""

    readings: Readings
    averages: Averages
    exports: Exports
    watches: Watches


@dataclass(frozen=True)
class Logger(logger_pb2_grpc.LoggerServicer):
    """The Logger service. Errors leave it as exceptions; `boundary` makes them status codes."""

    answers: Answers
    validator: Validator
    replies: Replies
    metrics: Metrics
    limits: Limits
    canceller: Executor

    def ListSensor(self, request: pb.ListSensorReq, context: grpc.ServicerContext) -> pb.ListSensorReply:
        """Return a page of the sensors that announced themselves."""
        page = page_of(request)
        rows = self.answers.readings.sensors(self._call(context), page)
        self._count("ListSensor", len(rows))
        return pb.ListSensorReply(results=map(self.replies.sensor, rows))

    def ListSensorData(self, request: pb.ListSensorDataReq, context: grpc.ServicerContext) -> Any:
        """Return a page of readings, as bytes: of single readings no objects are made."""
        query = self.validator.readings(request)
        page = self.answers.readings.page(self._call(context), query)
        self._count("ListSensorData", len(page.rows))
        return self.replies.page(page.rows, page.next_page_token)

    def GetSensorAvgData(
        self, request: pb.GetSensorAvgDataReq, context: grpc.ServicerContext
    ) -> pb.GetSensorAvgDataReply:
        """Return averages per bucket."""
        query = self.validator.buckets(request)
        rows = self.answers.averages.buckets(self._call(context), query)
        self._count("GetSensorAvgData", len(rows))
        return pb.GetSensorAvgDataReply(results=(self.replies.average(row, query.aggregates) for row in rows))

    def GetSensorAvgAndLatestData(
        self, request: pb.GetSensorAvgAndLatestDataReq, context: grpc.ServicerContext
    ) -> pb.GetSensorAvgAndLatestDataReply:
        """Return averages and latest values per bucket."""
        query = self.validator.buckets(request)
        rows = self.answers.averages.buckets(self._call(context), query)
        self._count("GetSensorAvgAndLatestData", len(rows))
        results = (self.replies.average_and_latest(row, query.aggregates) for row in rows)
        return pb.GetSensorAvgAndLatestDataReply(results=results)

    def GetLatestSensorData(
        self, request: pb.GetLatestSensorDataReq, context: grpc.ServicerContext
    ) -> pb.GetLatestSensorDataReply:
        """Return the last reading of each sensor."""
        sensor_ids = self.validator.latest(request)
        rows = self.answers.readings.latest(self._call(context), sensor_ids)
        self._count("GetLatestSensorData", len(rows))
        return pb.GetLatestSensorDataReply(results=map(self.replies.reading, rows))

    def ListCanary(self, request: pb.ListCanaryReq, context: grpc.ServicerContext) -> pb.ListCanaryReply:  # noqa: ARG002
        """Return the last canary of each partition."""
        rows = self.answers.readings.canaries(self._call(context))
        self._count("ListCanary", len(rows))
        canaries = (pb.Canary(partition=p, token=token, stored_us=stored_us) for p, token, stored_us in rows)
        return pb.ListCanaryReply(results=canaries)

    def ExportSensorData(
        self, request: pb.ExportSensorDataReq, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportSensorDataReply]:
        """Yield all readings of a range as columns."""
        query = self.validator.export(request)
        call = Call(context, self.limits.export_seconds, self.canceller)
        for block in self.answers.exports.stream(call, query):
            self._count("ExportSensorData", len(block))
            yield self.replies.columns(block, query.measurements)

    def WatchSensorData(
        self, request: pb.WatchSensorDataReq, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchSensorDataReply]:
        """Yield readings as they are stored."""
        schema = self.validator.pipeline
        position = watching_position.decode(request.resume_token, schema) if request.resume_token else None
        query = WatchQuery(frozenset(self.validator.watched(request)) or None, position)
        call = Call(context, LIMIT_SECONDS, self.canceller)
        for entry, continues in self.answers.watches.stream(context, call, query):
            self._count("WatchSensorData", 0 if entry.readings is None else len(entry.readings))
            yield watching_reply(self.replies, schema, entry, continues=continues)

    def _call(self, context: grpc.ServicerContext) -> Call:
        return Call(context, self.limits.unary_seconds, self.canceller)

    def _count(self, method: str, rows: int) -> None:
        self.metrics.rows[method].inc(rows)
