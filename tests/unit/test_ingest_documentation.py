"""The documentation of ingest is complete."""

import re
from pathlib import Path

from sensorlog_ingest.rejections import Reason

ROOT = Path(__file__).parents[2]


def test_every_reason_is_documented() -> None:
    """docs/dead-letters.md has a row for each reason, and none for others."""
    reasons = (ROOT / "docs" / "dead-letters.md").read_text().partition("## Reasons")[2]
    assert re.findall(r"^\| `(\w+)` \|", reasons, re.MULTILINE) == [reason.value for reason in Reason]
