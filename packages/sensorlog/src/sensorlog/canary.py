"""What marks a message as a canary, which measures that data flows and is no reading."""

HEADER = "sensorlog-canary"
"""Name of the header whose value, ASCII, tells canaries from each other."""

MAX_TOKEN_LENGTH = 64
"""Characters of that value."""
