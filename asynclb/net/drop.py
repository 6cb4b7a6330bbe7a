"""Why something was not forwarded: one enumeration for the core, the metrics, the API and the pages."""

from enum import StrEnum


class Drop(StrEnum):
    """A reason for dropping a packet, a datagram or a connection."""

    NO_RULE = "no_rule"
    """The frontend's address was reached on a port or protocol that no rule names."""
    SOURCE_NOT_ALLOWED = "source_not_allowed"
    """The source is not in the frontend's `allow`."""
    NO_ELIGIBLE_MEMBER = "no_eligible_member"
    """No member of the pool may take a new flow, and the rule says `no_healthy_members: drop`."""
    MEMBERS_UNREACHABLE = "members_unreachable"
    """Every eligible member refused the connection or could not be reached; the client got a reset."""
    FLOW_TABLE_FULL = "flow_table_full"
    """The datapath's limit of flows was reached; established flows go on."""
    OUT_OF_DESCRIPTORS = "out_of_descriptors"
    """The process has no file descriptor or no memory left for another flow."""
    LISTEN_OVERFLOW = "listen_overflow"
    """The kernel's accept queue or receive buffer was full."""
    MEMBER_SEND_FAILED = "member_send_failed"
    """A datagram could not be handed to the member (unreachable, too big, no buffer)."""
    CLIENT_SEND_FAILED = "client_send_failed"
    """A reply datagram could not be handed to the client."""
