"""Credentials as files: what the operator mounts from Secrets, and how clients are built from them.

Files rather than environment variables: they do not show in `kubectl describe` or in a child's environment.
"""

from collections.abc import Mapping
from pathlib import Path

from sensorlog.pipeline import KafkaConfig, SaslMechanism, SecurityProtocol

DATABASE_URI = "uri"
KAFKA_USERNAME = "username"
KAFKA_PASSWORD = "password"  # noqa: S105 -- the name of a key, not a password
KAFKA_CA = "ca.crt"
KAFKA_CERTIFICATE = "tls.crt"
KAFKA_KEY = "tls.key"

_KAFKA_OPTIONS = {
    KAFKA_USERNAME: "sasl.username",
    KAFKA_PASSWORD: "sasl.password",
    KAFKA_CA: "ssl.ca.pem",
    KAFKA_CERTIFICATE: "ssl.certificate.pem",
    KAFKA_KEY: "ssl.key.pem",
}


class CredentialsError(Exception):
    """A credential is missing, empty or unusable; the message names the file."""


def read_credential(directory: Path, key: str) -> str:
    """Return the text of one key of a mounted Secret, stripped; CredentialsError when missing or empty."""
    path = directory / key
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as e:
        raise CredentialsError(f"cannot read {path}: {e.strerror}; is the Secret's key {key!r} there?") from e
    except UnicodeDecodeError as e:
        raise CredentialsError(f"{path} is not text; put PEM or plain text under the Secret's key {key!r}") from e
    if not text:
        raise CredentialsError(f"{path} is empty; put a value under the Secret's key {key!r}")
    return text


def kafka_client_options(
    bootstrap_servers: str,
    protocol: SecurityProtocol,
    mechanism: SaslMechanism | None,
    values: Mapping[str, str],
) -> dict[str, str]:
    """Return librdkafka's connection options; `values` are credentials by the KAFKA_ names above.

    Certificates stand in the options themselves, so that two sets of options are equal where nothing has changed.
    Source: librdkafka CONFIGURATION.md.
    """
    return {
        "bootstrap.servers": bootstrap_servers,
        "security.protocol": protocol,
        **({"sasl.mechanism": mechanism} if mechanism else {}),
        **{_KAFKA_OPTIONS[key]: value for key, value in values.items()},
    }


def mounted_kafka_options(kafka: KafkaConfig, directory: Path) -> dict[str, str]:
    """Return librdkafka's connection options for `kafka` with the credentials that are mounted in `directory`.

    A CA and a client certificate are used where their files exist. Raises CredentialsError as `read_credential`.
    """
    needed = (KAFKA_USERNAME, KAFKA_PASSWORD) if kafka.sasl_mechanism else ()
    found = (key for key in (KAFKA_CA, KAFKA_CERTIFICATE, KAFKA_KEY) if (directory / key).exists())
    values = {key: read_credential(directory, key) for key in (*needed, *found)}
    return kafka_client_options(kafka.bootstrap_servers, kafka.security_protocol, kafka.sasl_mechanism, values)
