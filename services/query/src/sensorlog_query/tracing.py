"""Which calls are not traced, where tracing is applied from outside by opentelemetry-instrument.

Its gRPC instrumentor reads the environment before this process's own code runs; the entry point in pyproject.toml is
run before that.
"""

import os

EXCLUDED = "OTEL_PYTHON_GRPC_EXCLUDED_SERVICES"
PROBES = "grpc.health.v1.Health,grpc.reflection.v1.ServerReflection,grpc.reflection.v1alpha.ServerReflection"


def exclude_probes() -> None:
    """Leave health probes and reflection out of the traces, unless the environment says otherwise."""
    os.environ.setdefault(EXCLUDED, PROBES)
