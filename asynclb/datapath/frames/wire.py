"""Who is where on the wire, for who looks at frames: made when it is asked for, and anew when something has changed."""

from asynclb.datapath.base import Wire
from asynclb.datapath.frames.surroundings import Surroundings
from asynclb.tables.tables import Tables


class Wiring:
    """Owner: a datapath."""

    def __init__(self) -> None:
        self._made_of: tuple[Surroundings, Tables] | None = None
        self._wire = Wire()

    def wire(self, around: Surroundings, tables: Tables) -> Wire:
        """Return who is where in these surroundings. Cost: nothing until one of the two is another."""
        if self._made_of is None or self._made_of[0] is not around or self._made_of[1] is not tables:
            own = frozenset(around.addresses) | {key.address for key in tables.entries}
            self._wire = Wire(own, {hop.destination: address for address, hop in around.hops.items()})
            self._made_of = around, tables
        return self._wire
