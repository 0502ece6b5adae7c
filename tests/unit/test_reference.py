"""The reference pages say what the models say."""

from pathlib import Path

import pytest
from pydantic import BaseModel, Field

import sensorlog.reference
import sensorlog_operator.reference
from sensorlog.reference import UndocumentedError, settings_section

DOCS = Path(__file__).parents[2] / "docs"
PACKAGES = ("sensorlog_operator", "sensorlog_ingest", "sensorlog_query")


def test_the_resources_page_is_current() -> None:
    """`make generate` was run after the last change of the models; every field has a description and an example."""
    assert (DOCS / "reference.md").read_text() == sensorlog_operator.reference.page()


def test_the_settings_page_is_current() -> None:
    """`make generate` was run after the last change of the settings."""
    assert (DOCS / "settings.md").read_text() == sensorlog.reference.page(PACKAGES)


def test_a_field_tells_its_type_default_limits_and_example() -> None:
    """In one row."""

    class Settings(BaseModel):
        retries: int | None = Field(default=3, ge=0, le=9, description="How often.", examples=[5])

    (row,) = settings_section(Settings, "X_").splitlines()[2:]
    assert row == "| `X_RETRIES` | integer | `3` | at least 0, at most 9 | `5` | How often. |"


@pytest.mark.parametrize(
    ("options", "lacking"), [({"examples": ["a"]}, "description"), ({"description": "Where."}, "example")]
)
def test_a_field_that_lacks_something_is_refused(options: dict[str, str], lacking: str) -> None:
    """Nobody can add a field without saying what it is and what it looks like."""

    class Settings(BaseModel):
        place: str = Field(**options)  # type: ignore[call-overload]

    with pytest.raises(UndocumentedError, match=f"PLACE has no {lacking}"):
        settings_section(Settings, "")
