"""What the three provisioners have in common: a plan is a list of actions, said in words before they are done."""

from dataclasses import dataclass

from sensorlog_operator.errors import Reason


@dataclass(frozen=True, slots=True)
class Action:
    """One idempotent step. `summary` says in words what it does."""

    summary: str


@dataclass(frozen=True, slots=True)
class Refusal(Action):
    """A step that will not be taken; `summary` says why and what to do instead.

    A blocking refusal means that the pipeline has no right to go on; the others leave what exists at work.
    """

    reason: Reason
    blocking: bool = False
