"""What datapaths that work on frames share: numbers for names, neighbours, who leaves, and reports.

ids, numbers           small numbers for rules, members, next hops
departures             members and rules that leave: their flows end, then their numbers are free
"""
