"""From the configuration's text to something that could be made active, or every reason why it cannot."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

from asynclb import rules
from asynclb.control.assign import Candidate, Choices, assign
from asynclb.control.overrides import Overrides, lay_over, still_meant, unknown_here
from asynclb.control.share import share, share_rules
from asynclb.errors import ConfigError, Problem
from asynclb.model import Member, Model
from asynclb.tables.row import Row
from asynclb.tables.snat import SnatRule

Discovered = Mapping[str, tuple[Member, ...]]
"""Pool -> the members that its source told of last, and that are in force."""


class Source(Protocol):
    """Knows where in the file things stand."""

    def locate(self, problem: Problem) -> Problem:
        """Return the problem with its file, line and column."""


class Parsed(Protocol):
    """A configuration that parsed; `asynclb.config.load` makes one."""

    @property
    def model(self) -> Model:
        """What was asked for."""

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is accepted but should be mended."""

    @property
    def source(self) -> Source:
        """Where things stand in the file."""

    @property
    def digest(self) -> str:
        """Name of the content: equal for equal contents."""

    def with_members(self, discovered: Discovered) -> "Parsed":
        """Return the configuration with these members in the pools that have a source, instead of any before.

        Raises: ConfigError -> it is not sound with them.
        """


NO_PORTS: rules.NatPorts = MappingProxyType({})

Load = Callable[[str], Parsed]
"""Read and parse the file at a path. Raises: ConfigError -> with every problem of the file."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A configuration that can be executed on this host, as far as can be known before it is tried."""

    parsed: Parsed
    model: Model
    rows: tuple[Row, ...]
    choices: Choices
    nat_ports: rules.NatPorts
    outbound: tuple[SnatRule, ...] = ()
    overrides: Overrides = field(default_factory=dict)
    discovered: Discovered = field(default_factory=dict)

    def place(self, problem: Problem) -> Problem:
        """Return a datapath's problem at its place in the file: datapaths know rules by name, the file by position."""
        match problem.path:
            case ("rules", str(name), *rest):
                problem = replace(problem, path=(*(rules.path_of(self.model, name) or ("rules",)), *rest))
        return self.parsed.source.locate(problem)


def prepare(
    parsed: Parsed,
    candidates: Sequence[Candidate],
    active: Model,
    nat_ports: rules.NatPorts = NO_PORTS,
    outbound: tuple[SnatRule, ...] = (),
    *,
    overrides: Overrides = MappingProxyType({}),
    discovered: Discovered = MappingProxyType({}),
) -> Prepared:
    """Resolve the rules and choose a datapath for each; share with the active model what has not changed.

    `nat_ports` are the ports that inbound NAT rules have given to members so far, `outbound` those of outbound rules;
    `overrides` are laid over the members of which the configuration says what it said; `parsed` has the `discovered`
    members already.
    Raises: ConfigError -> rules that cannot be executed, all of them, each with its place in the file.
    """
    overrides = still_meant(overrides, parsed.model)
    model = share(lay_over(parsed.model, overrides), active)
    problems = rules.unchangeable(model, active, nat_ports)
    problems += unknown_here(parsed.model, overrides, since_before=True)
    ports = rules.assign_ports(model, nat_ports)
    rows = rules.rows_of(model, ports)
    snat = share_rules(rules.snat_rules(model, outbound), outbound)
    choices, refused = assign(model, rows, candidates, snat)
    problems = (*problems, *refused)
    if problems:
        located = (parsed.source.locate(problem) for problem in problems)
        raise ConfigError(sorted(located, key=lambda problem: (problem.line, problem.column)))
    return Prepared(parsed, model, rows, choices, ports, snat, overrides, discovered)
