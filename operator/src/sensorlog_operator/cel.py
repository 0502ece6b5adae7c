"""Rules that the API server checks when a resource is written, as CEL with the words that it answers.

A rule that is new is only here, and not in the models unless the operator cannot use what it refuses: the API server
lets what is stored keep such a value (Kubernetes documentation, "Validation ratcheting"), and so must the operator.
CEL's own durations know no days, so one is turned into seconds by text.
"""

from typing import Any

PORT = "(0*[1-9][0-9]{0,3}|0*[1-5][0-9]{4}|0*6[0-4][0-9]{3}|0*65[0-4][0-9]{2}|0*655[0-2][0-9]|0*6553[0-5])"
BROKER = rf"[^\s,:]+:{PORT}"

WHOLE_OR_UNLIMITED = "^(-1|[0-9]{1,18})$"
"""What Kafka takes for retention.ms and retention.bytes: a Java long; -1 is no limit."""

Rule = tuple[str, str]
"""An expression that must be true, and what is said where it is not."""


def rules(*pairs: Rule) -> dict[str, Any]:
    """Return CEL rules as a schema extension."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


def immutable(field: str) -> Rule:
    """Return the rule that forbids changing `field` once it is set."""
    return "self == oldSelf", f"{field} cannot be changed after creation; create another pipeline instead"


def matches(pattern: str, message: str) -> Rule:
    """Return the rule that a text matches a pattern (RE2): beside the API server's own words, which are the pattern."""
    return f"self.matches(r'{pattern}')", message


DURATION_PATTERN = "^([0-9]{1,9}d)?([0-9]{1,9}(h|m|s|ms))*$"
"""What `seconds` can read: days come first. The schema's pattern says that there is something at all."""

DURATION = matches(DURATION_PATTERN, "write numbers with units, days first, like 250ms, 30m, 7d or 1d12h")


def seconds(field: str) -> str:
    """Return the expression of a duration's whole seconds."""
    days = f"int({field}.substring(0, {field}.indexOf('d')))"
    rest = f"duration('0s' + {field}.substring({field}.indexOf('d') + 1))"
    return f"({field}.contains('d') ? {days} * 86400 + {rest}.getSeconds() : duration({field}).getSeconds())"


def within(field: str, least_minutes: int, most_days: int) -> Rule:
    """Return the rule that a duration is neither shorter nor longer than this; one that is none has its own words."""
    text = f"self.{field}"
    value = seconds(text)
    limits = f"{value} >= {least_minutes * 60} && {value} <= {most_days * 86_400}"
    return (
        f"!has({text}) || {malformed(text)} || ({limits})",
        f"{field} must be between {least_minutes}m and {most_days}d",
    )


def short(field: str, most_seconds: int) -> Rule:
    """Return the rule that a duration is between a millisecond and so many seconds."""
    text = f"self.{field}"
    limits = f"duration({text}) >= duration('1ms') && duration({text}) <= duration('{most_seconds}s')"
    return (
        f"{malformed(text)} || (!{text}.contains('d') && {limits})",
        f"{field} must be between 1ms and {most_seconds}s",
    )


def malformed(text: str) -> str:
    """Return the expression that a text is no duration: of that its own rule speaks, and others had better not."""
    return f"!{text}.matches('{DURATION_PATTERN}')"


def configured(key: str, condition: str) -> str:
    """Return the expression that a topic's configuration is not declared, or fulfils a condition on `value`."""
    value = f"self.config['{key}']"
    return f"!has(self.config) || !('{key}' in self.config) || {condition.replace('value', value)}"


def empty(field: str) -> str:
    """Return the expression that a list is not there or has no items."""
    return f"(!has(self.{field}) || self.{field}.size() == 0)"
