"""Kafka to TimescaleDB, exactly once, by binary COPY."""
