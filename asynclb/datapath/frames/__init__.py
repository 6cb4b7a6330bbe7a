"""What datapaths that work on frames share: numbers for names, neighbours, who leaves, and what is reported.

ids, numbers      small numbers for rules, members, next hops
surroundings      interfaces, addresses, next hops
neighbours        the same from netlink, followed
departures        members and rules that leave: their flows end, then their numbers are free
limits            what these datapaths can carry, by their nature
report, lifetimes counters, flows, and flows that begin and end, by name
announce          where a VIP is now, to its network
"""
