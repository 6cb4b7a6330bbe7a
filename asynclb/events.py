"""The events of asynclb: one per state change, with fixed names, in one list.

Every component is handed an `Emit` and calls it; only `observe` knows how an event is written. Names are
part of the operator's contract: log searches and alerts depend on them.
"""

from enum import StrEnum
from typing import Protocol


class Event(StrEnum):
    """The name of every event that asynclb writes, and beside it the fields it carries."""

    STARTING = "starting"  # version, config, loop, pid
    STARTED = "started"  # generation, rules, members, took_ms
    STOPPING = "stopping"  # signal, connections, drain_s
    STOPPED = "stopped"  # connections_reset, took_ms
    HOST_LIMIT = "host_limit"  # what, value, remedy
    LEFTOVERS_REMOVED = "leftovers_removed"  # what: things a killed instance had left behind

    CONFIG_LOADED = "config_loaded"  # generation, trigger, added, removed, changed, took_ms
    CONFIG_UNCHANGED = "config_unchanged"  # trigger
    CONFIG_REFUSED = "config_refused"  # trigger, problems
    CONFIG_WARNING = "config_warning"  # problem
    CONFIG_WATCH_FAILED = "config_watch_failed"  # path, error

    DATAPATH_CHOSEN = "datapath_chosen"  # rule, datapath, mode, why
    DATAPATH_APPLIED = "datapath_applied"  # datapath, generation, took_ms
    DATAPATH_ATTACHED = "datapath_attached"  # datapath, interface, mode
    DATAPATH_ADOPTED = "datapath_adopted"  # datapath, interfaces, rules, members: left by an instance before
    DATAPATH_LEFT = "datapath_left"  # datapath, interfaces: go on forwarding without the process
    DATAPATH_FAILED = "datapath_failed"  # datapath, error
    WORKER_STARTED = "worker_started"  # datapath, worker, pid, took_ms
    WORKER_DIED = "worker_died"  # datapath, worker, pid, why: another one follows and goes on with its flows
    RULE_SILENT = "rule_silent"  # rule, pool: no member is eligible and new flows are dropped
    RULE_SERVING = "rule_serving"  # rule, pool, eligible
    ALL_MEMBERS_DOWN = "all_members_down"  # rule, pool, policy

    SOURCE_UP = "source_up"  # pool, source, members: it answers, for the first time or again
    SOURCE_FAILED = "source_failed"  # pool, source, error: its last members stay
    SOURCE_REFUSED = (
        "source_refused"  # pool, source, problems: its last answer is not taken; the members before it stay
    )
    SOURCE_WARNING = "source_warning"  # pool, source, warning
    MEMBERS_DISCOVERED = "members_discovered"  # pool, source, members, added, removed, changed: names, the first ones

    MEMBER_UP = "member_up"  # pool, member, probe, reason, after_s
    MEMBER_DOWN = "member_down"  # pool, member, probe, reason, detail, after_s
    MEMBER_OVERRIDDEN = "member_overridden"  # pool, member, admin_state, weight, by: holds instead of the file's word
    MEMBER_OVERRIDE_ENDED = "member_override_ended"  # pool, member: the file's word holds again
    MEMBER_ADMIN_STATE = "member_admin_state"  # pool, member, admin_state
    PROBE_STARVED = "probe_starved"  # probe, late_s: checks start later than scheduled

    HEALTH_EVENT = "health_event"  # type, severity, whom it concerns: told again for as long as it holds
    RESOURCE_HEALTH = "resource_health"  # state, was, after_s

    CONNECTIONS_RESET = "connections_reset"  # rule, member, connections, why
    ACCEPT_PAUSED = "accept_paused"  # rule, error: out of file descriptors or memory
    FLOW_LOG_OPENED = "flow_log_opened"  # path, sample, start
    FLOW_LOG_SAMPLED = (
        "flow_log_sampled"  # path, sample, finest: one of so many flows is written, for it takes 1 % of a CPU
    )
    FLOW_LOG_FAILED = "flow_log_failed"  # path, error, remedy: lines are lost from here on, and counted
    FLOW_LOG_RESUMED = "flow_log_resumed"  # path, lost
    ADMIN_WRITE = "admin_write"  # who, peer, method, path, what, status
    ADMIN_DENIED = "admin_denied"  # peer, method, path, status, times: at most one in ten seconds, with how many
    ADMIN_LISTENING = "admin_listening"  # address
    TASK_FAILED = "task_failed"  # task, error


class Emit(Protocol):
    """Write one event. Never blocks for long and never raises."""

    def __call__(self, event: Event, /, **fields: object) -> None:
        """Write `event` with its fields; values are plain JSON types or have a telling `str()`."""
