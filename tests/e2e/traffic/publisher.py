"""Sends readings without a pause until /tmp/stop is there; runs in a pod of the ingest image.

Arguments: bootstrap servers, topic. No two readings have the same ts. Prints one line of JSON: {"sent": 4000}.
"""

import json
import sys
import time
from pathlib import Path

from confluent_kafka import KafkaError, Message, Producer

STOP = Path("/tmp/stop")  # noqa: S108 -- of a container that lives for a test
FIRST_TS = 1_700_000_000
PAUSE_SECONDS = 0.005
FLUSH_SECONDS = 60


def main(bootstrap_servers: str, topic: str) -> None:
    """Send, and at the end wait for every acknowledgement."""
    producer = Producer({"bootstrap.servers": bootstrap_servers, "enable.idempotence": True, "linger.ms": 20})
    lost: list[str] = []

    def note(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            lost.append(error.str())

    sent = 0
    while not STOP.exists():
        reading = {"ts": FIRST_TS + sent, "sensor_id": sent % 10, "temperature": 20, "cpu": 50}
        producer.produce(topic, json.dumps([reading]), on_delivery=note)
        sent += 1
        producer.poll(0)
        time.sleep(PAUSE_SECONDS)
    waiting = producer.flush(FLUSH_SECONDS)
    if waiting or lost:
        sys.exit(f"{waiting} readings without an answer, {len(lost)} refused: {lost[:3]}")
    sys.stdout.write(json.dumps({"sent": sent}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
