"""Credentials as files: what the operator mounts from Secrets, and how clients are built from them.

Files rather than environment variables: they do not show in `kubectl describe` or in a child's environment.
"""

from pathlib import Path

from sensorlog.pipeline import KafkaConfig

DATABASE_URI = "uri"
KAFKA_USERNAME = "username"
KAFKA_PASSWORD = "password"  # noqa: S105 -- the name of a key, not a password
KAFKA_CA = "ca.crt"
KAFKA_CERTIFICATE = "tls.crt"
KAFKA_KEY = "tls.key"


class CredentialsError(Exception):
    """A credential is missing or empty; the message names the file."""


def read_credential(directory: Path, key: str) -> str:
    """Return the text of one key of a mounted Secret, stripped; CredentialsError when missing or empty."""
    path = directory / key
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as e:
        raise CredentialsError(f"cannot read {path}: {e.strerror}; is the Secret's key {key!r} there?") from e
    if not text:
        raise CredentialsError(f"{path} is empty; put a value under the Secret's key {key!r}")
    return text


def kafka_client_options(kafka: KafkaConfig, directory: Path) -> dict[str, str]:
    """Return the connection options of librdkafka for `kafka`, credentials read from `directory`.

    A CA and a client certificate are used where their files exist.
    Source: librdkafka CONFIGURATION.md.
    """
    options = {"bootstrap.servers": kafka.bootstrap_servers, "security.protocol": kafka.security_protocol}
    if kafka.sasl_mechanism:
        options["sasl.mechanism"] = kafka.sasl_mechanism
        options["sasl.username"] = read_credential(directory, KAFKA_USERNAME)
        options["sasl.password"] = read_credential(directory, KAFKA_PASSWORD)
    for key, option in (
        (KAFKA_CA, "ssl.ca.location"),
        (KAFKA_CERTIFICATE, "ssl.certificate.location"),
        (KAFKA_KEY, "ssl.key.location"),
    ):
        if (directory / key).exists():
            options[option] = str(directory / key)
    return options
