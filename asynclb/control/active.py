"""The controller's state: one frozen value, replaced by assignment when a command has succeeded."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from asynclb.control.assign import Choices
from asynclb.control.edges import RuleState
from asynclb.control.overrides import Overrides
from asynclb.control.prepare import Discovered, Parsed
from asynclb.health.target import Target
from asynclb.model import Model, TargetId
from asynclb.rules import NatPorts
from asynclb.tables.row import Row
from asynclb.tables.snat import SnatRule
from asynclb.tables.tables import EMPTY_TABLES, Tables


@dataclass(frozen=True, slots=True)
class Active:
    """What the last successful reload made active, with the tables as health has changed them since."""

    model: Model = field(default_factory=Model)
    parsed: Parsed | None = None
    overrides: Overrides = field(default_factory=dict)
    digest: str = ""
    rows: tuple[Row, ...] = ()
    choices: Choices = field(default_factory=dict)
    targets: Mapping[TargetId, Target] = field(default_factory=dict)
    seed: int = 0
    tables: Tables = EMPTY_TABLES
    since_s: float = 0.0
    states: Mapping[str, RuleState] = field(default_factory=dict)
    nat_ports: NatPorts = field(default_factory=dict)
    outbound: tuple[SnatRule, ...] = ()
    discovered: Discovered = field(default_factory=dict)
