"""What the chart tells the operator."""

import pytest

from sensorlog_operator.settings import Settings


@pytest.mark.parametrize(("text", "namespaces"), [("", ()), ("a", ("a",)), (" a, b,", ("a", "b"))])
def test_namespaces_come_as_one_text(monkeypatch: pytest.MonkeyPatch, text: str, namespaces: tuple[str, ...]) -> None:
    """Separated by commas, as in an environment variable."""
    monkeypatch.setenv("SENSORLOG_WATCH_NAMESPACES", text)
    assert Settings(ingest_image="i", query_image="q").watch_namespaces == namespaces


def test_an_operator_is_known_by_what_it_may_look_at() -> None:
    """By the cluster where it watches it all, else by its own namespace."""
    every = Settings(ingest_image="i", query_image="q", namespace="tools")
    assert every.identity_namespace == "kube-system"
    assert every.model_copy(update={"watch_namespaces": ("a",)}).identity_namespace == "tools"
