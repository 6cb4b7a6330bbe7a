"""What commands take and answer."""

from typing import Annotated, Literal, NotRequired, TypedDict

from asynclb.admin.documents.state import AdminStateWord, Member, Problem


class MemberPatch(TypedDict):
    """What is to hold instead of the file's word, until the file changes the member or the process ends."""

    admin_state: NotRequired[AdminStateWord]
    weight: NotRequired[Annotated[int, "0 to 1000"]]


class MemberChanged(TypedDict):
    """What became of a change to a member, and the member as it is now."""

    result: Literal["applied", "unchanged"]
    generation: int
    member: Member


class Difference(TypedDict):
    """One object that a reload would add, remove or change."""

    kind: str
    name: str
    change: Literal["added", "removed", "changed"]
    details: list[str]


class Move(TypedDict):
    """The share of a rule's new flows that would meet another member than now."""

    rule: str
    share: float
    why: str


class FlowsMoved(TypedDict):
    """What would become of open flows; `elsewhere` are those whose client would meet another member the next time."""

    open: int
    examined: int
    stay: int
    end: int
    elsewhere: int
    ending: Annotated[dict[str, int], "why flows end -> how many"]


class Plan(TypedDict):
    """What a reload would change."""

    generation: NotRequired[int]
    differences: list[Difference]
    moves: list[Move]
    flows: FlowsMoved | None
    warnings: list[Problem]


class Alive(TypedDict):
    """Whether the controller is well."""

    alive: bool
    reason: NotRequired[str]


class Ready(TypedDict):
    """Whether new flows are welcome."""

    ready: bool
    generation: NotRequired[int]
    reason: NotRequired[str]
