"""`python -m benchmarks.query_empty`: the query service itself, but that one of its methods does nothing.

So the server, its options, interceptors and threads are those of the service. Its processes import this module too.
"""

import sys

import grpc

from sensorlog.rpc import logger_pb2 as pb
from sensorlog_query.__main__ import main
from sensorlog_query.service import Logger


def nothing(_self: Logger, _request: pb.ListSensorDataReq, _context: grpc.ServicerContext) -> pb.ListSensorDataReply:
    """Return no readings, at once."""
    return pb.ListSensorDataReply()


Logger.ListSensorData = nothing  # type: ignore[method-assign,assignment]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
