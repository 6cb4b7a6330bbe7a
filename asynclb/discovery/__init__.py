"""Sources of pool members: files, name servers and etcds that are asked while the process runs.

    file, DNS, etcd --> Source --Answer | Failure--> Discoverer --members of one pool--> the one writer (control)
                                                        |
                                                        +--> SourceStatus (read-only): metrics, API, pages

Laws:
  1. A source that fails takes nothing away: its last members stay, and the failure is told once, until it is well.
  2. An answer is taken whole or not at all. Whether it fits the configuration is decided by the one writer.
  3. An answer that would leave nobody where there were members is refused, unless `allow_empty` says otherwise.
  4. A member is the same one in the next answer: its name is its own, its target's or its address's.
  5. However often a source changes its mind, a pool follows at most once a second, to what was said last.
"""

from asynclb.discovery.discoverer import Discoverer, Feed
from asynclb.discovery.source import Answer, Failure, Finding, Say, Source
from asynclb.discovery.state import Result, SourceState, SourceStatus

__all__ = [
    "Answer",
    "Discoverer",
    "Failure",
    "Feed",
    "Finding",
    "Result",
    "Say",
    "Source",
    "SourceState",
    "SourceStatus",
]
