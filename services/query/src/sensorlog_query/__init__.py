"""TimescaleDB to gRPC, read-only."""
