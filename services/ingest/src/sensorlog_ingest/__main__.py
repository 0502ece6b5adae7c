"""`python -m sensorlog_ingest`: Kafka to TimescaleDB until SIGTERM.

Exit codes: 0 stopped as asked, 1 a failure that a restart may mend, 2 a configuration that needs a person.
"""

import argparse
import gc
import sys
from collections.abc import Sequence
from functools import partial

import structlog

from sensorlog.credentials import CredentialsError, mounted_kafka_options
from sensorlog.measurements import names
from sensorlog.pipeline import PipelineConfig, PipelineConfigError, read_pipeline_config
from sensorlog.telemetry import Health, Heartbeat, StopSignal, TelemetryServer, configure_logging
from sensorlog_ingest.app import Ingest
from sensorlog_ingest.batches import BatchBuilder
from sensorlog_ingest.consumer import MessageSource
from sensorlog_ingest.database import connector
from sensorlog_ingest.metrics import Metrics
from sensorlog_ingest.registry import Registry
from sensorlog_ingest.settings import Settings, SettingsError, describe_settings, read_settings
from sensorlog_ingest.sql import registry_statements, statements
from sensorlog_ingest.tracing import Tracer
from sensorlog_ingest.transaction import BatchTransaction
from sensorlog_ingest.writer import Writer

EXIT_CONFIGURATION = 2

MAX_SILENCE = 90.0
"""Seconds without a turn of the loop after which a restart helps. A rebalance or a broker may take up a minute."""

GC_THRESHOLD = 100_000
"""Allocations between two collections: a fetch makes thousands of objects, none of them in a cycle."""

SWITCH_SECONDS = 0.0005
"""How long one thread may keep another waiting for the interpreter; Python's default of 5 ms is long for the writer,
which needs it half a dozen times in a transaction of 70 ms, just to send the next statement."""

log = structlog.get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service and return its exit code."""
    _parser().parse_args(arguments)
    try:
        settings = read_settings()
        configure_logging("ingest", level=settings.log_level, log_format=settings.log_format)
        ingest, health = build(settings, read_pipeline_config(settings.config))
    except (SettingsError, PipelineConfigError, CredentialsError) as e:
        sys.stderr.write(f"sensorlog_ingest: {e}\n")
        return EXIT_CONFIGURATION
    serve(ingest, TelemetryServer(settings.telemetry_port, health))
    return 0


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog="python -m sensorlog_ingest",
        description="Reads a pipeline's Kafka topics and stores them in TimescaleDB, each message exactly once.",
        epilog=f"environment variables:\n{describe_settings()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def build(settings: Settings, config: PipelineConfig) -> tuple[Ingest, Health]:
    """Return the service and its health checks. Raises CredentialsError; connects to nothing yet."""
    connect = connector(settings.database_dir)
    read_kafka_options = partial(mounted_kafka_options, config.kafka, settings.kafka_dir)
    metrics = Metrics()
    heartbeat = Heartbeat("the consumer loop", MAX_SILENCE)
    transaction = BatchTransaction(
        statements(config.db_schema, names(config.measurements)), Registry(registry_statements(config.db_schema))
    )
    writer = Writer(connect, transaction, metrics, Tracer())
    ingest = Ingest(
        lambda listener: MessageSource(config.kafka, read_kafka_options, listener, metrics),
        BatchBuilder(config),
        writer,
        metrics,
        heartbeat,
    )
    health = Health()
    health.liveness.append(heartbeat)
    health.readiness += [writer.problem, ingest.source.problem]
    return ingest, health


def serve(ingest: Ingest, telemetry: TelemetryServer) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = StopSignal()
    stop.install()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 50, 50)
    sys.setswitchinterval(SWITCH_SECONDS)
    telemetry.start()
    log.info("started", telemetry_port=telemetry.port)
    try:
        ingest.run(stop)
    finally:
        telemetry.stop()


if __name__ == "__main__":
    sys.exit(main())
