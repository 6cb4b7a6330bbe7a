"""What the kernel datapath cannot carry yet."""

from asynclb.datapath.base import Refusal
from asynclb.tables.snat import SnatRule


def outbound_refusal(_rule: SnatRule) -> Refusal | None:
    """Return why no kernel datapath on any host can carry an outbound rule."""
    return Refusal("its programs do not translate what members open themselves", "use `datapath: packet`")
