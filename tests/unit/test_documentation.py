"""Documentation that must not fall behind the code."""

import re
from pathlib import Path
from typing import get_args

import pytest

from sensorlog_operator.conditions import CALM, ConditionType
from sensorlog_operator.errors import Reason

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("charts/*/README.md")])


def test_every_reason_is_documented() -> None:
    """docs/conditions.md says of each what it means, and of none that does not exist."""
    documented = set(re.findall(r"^\| `([A-Za-z]+)` \|", (ROOT / "docs/conditions.md").read_text(), re.MULTILINE))
    assert documented - set(get_args(ConditionType)) == {reason.value for reason in Reason} - {"Ready"}


def test_every_reason_that_warns_says_what_to_do() -> None:
    """A row of docs/conditions.md has a meaning and a remedy; what is calm needs none."""
    page = (ROOT / "docs/conditions.md").read_text()
    rows = {row[0]: row[1:] for row in re.findall(r"^\| `([A-Za-z]+)` \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)}
    assert set(rows) >= {reason.value for reason in Reason} - CALM
    assert all(len(text) > 7 for row in rows.values() for text in row), rows


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that exists."""
    prose = re.sub(r"`[^`\n]*`", "", page.read_text())  # a pattern in code may look like a link
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", prose)
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_that_are_mentioned_exist(page: Path) -> None:
    """A reader can type every `make` command."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    mentioned = set(re.findall(r"(?:`|^\$? ?)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE))
    assert mentioned <= targets
