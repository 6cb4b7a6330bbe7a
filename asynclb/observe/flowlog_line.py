"""A flow's lifetime as a line of JSON. Pure.

Law: a line is one JSON object; names and addresses have no character that JSON would escape (`NAME_PATTERN`).
"""

import time

from asynclb.datapath.lifetimes import Lifetime, Place


class Lines:
    """Makes lines of flows that one datapath told of, one of `sample`.

    What many lines have in common is made once: the words of a place, and those of a second. Owner: one batch.
    """

    def __init__(self, datapath: str, sample: int) -> None:
        self._head = f'"datapath":"{datapath}","sample":{sample}'
        self._places: dict[Place, str] = {}
        self._second, self._stamp = -1, ""

    def line(self, flow: Lifetime) -> str:
        """Return the line, with its end. Cost: 2 us."""
        place = self._places.get(flow.place) or self._words(flow.place)
        second = int(flow.at_s)
        stamp = self._stamp if second == self._second else self._begin(second)
        head = f"{stamp}.{int((flow.at_s - second) * 1000):03d}Z"
        destination = f',"destination":"{flow.destination}"' if flow.destination else ""
        if flow.end is None:
            return f'{head}","event":"start",{place},"client":"{flow.client}"{destination}}}\n'
        return (
            f'{head}","event":"end",{place},"client":"{flow.client}"{destination},'
            f'"bytes_in":{flow.bytes_in},"packets_in":{flow.packets_in},"bytes_out":{flow.bytes_out},'
            f'"packets_out":{flow.packets_out},"duration_s":{flow.duration_s:.3f},"reason":"{flow.end.value}"}}\n'
        )

    def _begin(self, second: int) -> str:
        self._second = second
        self._stamp = time.strftime('{"time":"%Y-%m-%dT%H:%M:%S', time.gmtime(second))
        return self._stamp

    def _words(self, place: Place) -> str:
        self._places[place] = words = (
            f'{self._head},"rule":"{place.rule}","frontend":"{place.frontend}",'
            f'"frontend_address":"{place.frontend_address}","pool":"{place.pool}","member":"{place.member}",'
            f'"member_address":"{place.member_address}","protocol":"{place.protocol}"'
        )
        return words
