"""The kernel datapath: BPF programs forward, this process keeps their tables, and they go on without it.

host, bpffs, pins      what the host has, and where things get names that outlive a process
programs, forwarding   loaded programs with their tables; with next hops, links and pins: what forwards
remembered, written    what the next process has to know
attach, features       links to interfaces, by tc or XDP
peers                  where frames may be handed on at once
hops, links            next hops in place; interfaces and appliances
sweep, tally, counting flows that are over, sums for each rule and member
ending                 flows whose member's time is over
send, speech           frames that are made here: announcements, resets
leftovers, running     taking over; applying deltas to all of that
datapath               what the controller sees
"""

from asynclb.datapath.frames.limits import static_refusal
from asynclb.datapath.kernel.datapath import KernelDatapath

__all__ = ["KernelDatapath", "static_refusal"]
