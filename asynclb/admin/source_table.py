"""The sources of pool members as rows of a table, for `asynclb show members`. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

SOURCE_HEADS = ("POOL", "SOURCE", "STATE", "SINCE", "MEMBERS", "ANSWERED", "WRONG")


def source_rows(state: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    """Yield pool, source, state, since, members, last answer and what is wrong for each source of a state document."""
    for pool in state["pools"]:
        if (source := pool.get("source")) is not None:
            wrong = source["error"] or "; ".join((*source["problems"], *source["warnings"]))
            word = "refused" if source["state"] == "up" and source["problems"] else source["state"]
            yield (pool["name"], source["name"], word, source["since"], source["members"], source["answered"], wrong)
