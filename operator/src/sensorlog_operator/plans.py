"""What the provisioners have in common: a plan is a list of actions, said in words before they are done."""

import hashlib
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass

from sensorlog_operator.errors import Reason


@dataclass(frozen=True, slots=True)
class Action:
    """One idempotent step. `summary` says in words what it does; `risk` what a person should know before."""

    summary: str
    _: KW_ONLY
    risk: str = ""
    dangerous: bool = False
    """Whether it may destroy what cannot be brought back: then it is never done without a person's approval."""
    creates: bool = False
    """Whether it makes what is not there at all, without which the pipeline cannot work."""
    upkeep: bool = False
    """Whether it follows a change of what the operator itself was given, such as a Secret."""

    @property
    def detail(self) -> str:
        """What exactly would be done, such as a statement or a difference. Never a secret."""
        return ""


@dataclass(frozen=True, slots=True)
class Refusal(Action):
    """A step that will not be taken; `summary` says why and what to do instead.

    A blocking refusal means that the pipeline has no right to go on; the others leave what exists at work.
    """

    reason: Reason
    blocking: bool = False


def identity(step: str, action: Action) -> str:
    """Return what tells actions of a plan apart and stays the same from one operator process to the next."""
    return _short(step, action.summary, action.risk, action.detail)


def plan_hash(generation: int, identities: Iterable[str]) -> str:
    """Return the name of a plan, by which it is approved: another generation or action makes another name."""
    return _short(str(generation), *identities)


def _short(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
