"""What can be changed. Each is carried out by the controller, one after the other, and told with who asked.

With `If-Match: "42"` a change is made only if generation 42 is active still; else the answer is 412, with the
generation that is. Without it the last one who asks is right.
"""

from dataclasses import dataclass, field
from typing import Any

from asynclb.admin import documents
from asynclb.admin.limits import read_body
from asynclb.admin.planning import plan_document
from asynclb.admin.reads import MEMBER, POOL, Reads, no_such
from asynclb.admin.route import Answer, Call, Refused, Route, read_json
from asynclb.admin.state import problem_document, reload_document
from asynclb.control.overrides import MemberChange
from asynclb.control.planner import Planner
from asynclb.control.status import Change, Commands
from asynclb.errors import ConfigError
from asynclb.model import AdminState

MOST_JSON = 64 * 1024  # no command has more to say
MOST_CONFIG = 10 * 1024 * 1024  # as `asynclb check` takes
HEAVIEST = 1000  # as the configuration allows

_STALE = "another generation is active than If-Match says"
_BODY = {
    400: "the body is not what is asked for",
    408: "the body did not come in time",
    413: "the body is too large",
    415: "the body is of another type",
}


@dataclass(frozen=True, slots=True)
class Writes:
    """The handlers of what can be changed."""

    commands: Commands
    reads: Reads
    planner: Planner | None = field(default=None)

    def routes(self) -> tuple[Route, ...]:
        """Return what is served."""
        api, member = "/api/v1", "/api/v1/pools/{pool}/members/{member}"
        refused = "a datapath or `compat: azure` refuses it"
        names, errors = (POOL, MEMBER), {404: "there is no such member", 409: refused, 412: _STALE}
        changed = documents.MemberChanged
        reload = Route(
            "POST",
            f"{api}/reload",
            "Read the configuration again; 422 with every problem if it is refused.",
            self.reload,
            documents.Reload,
            errors={412: _STALE, 422: "refused: the last good configuration stays active"},
            answers={422: documents.Reload},
        )
        plan = Route(
            "POST",
            f"{api}/plan",
            "What loading the configuration in the body would change. Changes nothing.",
            self.plan,
            documents.Plan,
            errors={**_BODY, 422: "it would be refused"},
            body=str,
            content="application/yaml",
            changes=False,
        )
        return (
            Route(
                "PATCH",
                member,
                "Say something of a member that holds until the file changes it or the process ends.",
                self.change_member,
                changed,
                names,
                {**errors, **_BODY},
                body=documents.MemberPatch,
            ),
            Route("POST", f"{member}/drain", "Give a member no new flows.", self.drain_member, changed, names, errors),
            Route(
                "DELETE", f"{member}/override", "Let the file's word hold.", self.reset_member, changed, names, errors
            ),
            reload,
            plan,
        )

    async def reload(self, call: Call) -> Answer:
        """Reload and answer with what became of it: 200, or 422 with every problem."""
        found = await self.commands.reload("api", expected=call.expected)
        if found.result == "stale":
            raise _stale(found.generation)
        return Answer(reload_document(found), found.generation, 422 if found.result == "refused" else 200)

    async def plan(self, call: Call) -> Answer:
        """Answer with what a configuration would change."""
        text = await read_body(call.request, MOST_CONFIG)
        if not text:
            raise Refused(400, "the body is empty", "send the text of a configuration")
        if self.planner is None:
            raise Refused(503, "this process cannot plan", "use `asynclb plan OLD NEW`")
        try:
            return Answer(plan_document(await self.planner.plan(text, "new")))
        except ConfigError as error:
            problems = [problem_document(problem) for problem in error.problems]
            raise Refused(422, "it would be refused", "mend the problems", problems=problems) from None

    async def change_member(self, call: Call) -> Answer:
        """Lay something over the file's word on a member."""
        if call.request.content_type != "application/json":
            raise Refused(415, "the body is not said to be JSON", "send Content-Type: application/json")
        return await self._change(call, read_change(read_json(await read_body(call.request, MOST_JSON))))

    async def drain_member(self, call: Call) -> Answer:
        """Give a member no new flows."""
        return await self._change(call, MemberChange(admin_state=AdminState.DRAIN))

    async def reset_member(self, call: Call) -> Answer:
        """Let the file's word on a member hold."""
        return await self._change(call, None)

    async def _change(self, call: Call, change: MemberChange | None) -> Answer:
        name = call.text("pool"), call.text("member")
        found = await self.commands.change_member(name, change, call.who, expected=call.expected)
        if found.result == "unknown":
            await self.reads.member(call)  # which says what there is
        _check(found, "/".join(name))
        member = await self.reads.member(call)
        document = {"result": found.result, "generation": found.generation, "member": member.document}
        return Answer(document, found.generation)


def _check(found: Change, name: str) -> None:
    """Raises: Refused -> the change was not made."""
    match found.result:
        case "stale":
            raise _stale(found.generation)
        case "unknown":
            raise no_such("member", name, iter(()))
        case "refused":
            problems = [problem_document(problem) for problem in found.problems]
            raise Refused(409, "the change was refused and nothing has changed", "see problems", problems=problems)


def _stale(generation: int) -> Refused:
    return Refused(412, f"generation {generation} is active", "read again, then ask again", generation=generation)


def read_change(document: Any) -> MemberChange:
    """Read what is asked of a member. Raises: Refused -> it is not what is asked for."""
    if not isinstance(document, dict) or not document or document.keys() - {"admin_state", "weight"}:
        raise Refused(400, "the body is no change to a member", 'send {"admin_state": "drain"}, {"weight": 5}, or both')
    state, weight = document.get("admin_state", "none"), document.get("weight", 0)
    if not isinstance(state, str) or state not in {*AdminState}:
        raise Refused(400, "admin_state is not a state", f"write one of {', '.join(AdminState)}")
    if type(weight) is not int or not 0 <= weight <= HEAVIEST:
        raise Refused(400, "weight is not a weight", f"write a whole number from 0 to {HEAVIEST}")
    return MemberChange(
        AdminState(state) if "admin_state" in document else None, weight if "weight" in document else None
    )
