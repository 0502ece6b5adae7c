"""`python -m benchmarks.query_empty PORT`: an empty method behind the query service's server and interceptors."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from prometheus_client import REGISTRY

from sensorlog.rpc import logger_pb2 as pb
from sensorlog.rpc import logger_pb2_grpc
from sensorlog.telemetry import StopSignal
from sensorlog_query.boundary import Boundary
from sensorlog_query.metrics import Metrics
from sensorlog_query.settings import Settings
from sensorlog_query.undelivered import Undelivered
from sensorlog_query.watching_threads import WatchThreads


class Empty(logger_pb2_grpc.LoggerServicer):
    """Answers at once, with nothing."""

    def ListSensorData(  # noqa: N802 -- the contract names it
        self, _request: pb.ListSensorDataReq, _context: grpc.ServicerContext
    ) -> pb.ListSensorDataReply:
        """Return no readings."""
        return pb.ListSensorDataReply()


def main(port: int) -> None:
    """Serve until SIGTERM."""
    settings, stop = Settings(), StopSignal()
    stop.install()
    server = grpc.server(
        ThreadPoolExecutor(settings.workers),
        interceptors=[
            WatchThreads(settings.max_watches),
            Boundary(Metrics(REGISTRY)),
            Undelivered(settings.max_unread_bytes),
        ],
        options=[("grpc.so_reuseport", 1)],
    )
    logger_pb2_grpc.add_LoggerServicer_to_server(Empty(), server)  # type: ignore[abstract]  # one method is enough
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    stop.wait()
    server.stop(None).wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
