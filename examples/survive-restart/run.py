"""Run the restart example in a lab: `sudo .venv/bin/python examples/survive-restart/run.py`.

wrk asks without a pause while the process is killed, started again, stopped, and started again. The exit code is 0 if
no request failed, new connections were served while nobody was there, and `asynclb detach` left nothing behind.
"""

import asyncio
import re
import signal
import sys
from pathlib import Path

from asynclb.errors import HostError
from asynclb.lab import STANDARD, VIP4, Host, Lab, Process
from asynclb.lab.wrk import parse_wrk, start_wrk

HERE = Path(__file__).resolve().parent
URL = f"http://{VIP4}/"
PAUSE_S = 1.5


async def fetch(client: Host, times: int) -> int:
    """Fetch the page a number of times, each on a new connection; return how many were answered."""
    command = ("curl", "-sS", "--fail", "-m", "5", "-H", "Connection: close", "-o", "/dev/null", "-w", "%{http_code}\n")
    return (await client.check_output(*command, f"{URL}?[1-{times}]")).split().count("200")


class Service:
    """`asynclb run` in the lab, which may be killed and started again."""

    def __init__(self, host: Host, config: Path) -> None:
        self._host = host
        self._config = config
        self.process: Process

    async def start(self) -> str:
        """Start it and wait until it executes the tables; return what it says of programs that it found."""
        self.process = await self._host.asynclb("run", self._config)
        await self.process.wait_for_log('"event": "started"')
        found = re.search(r'"event": "datapath_adopted".*', self.process.stdout + self.process.stderr)
        return "took over what forwards" if found else "attached programs of its own"

    async def detach(self) -> str:
        """Remove what was left in the kernel, as an operator does."""
        words = (sys.executable, "-m", "asynclb", "detach")
        return (await self._host.check_output(*words)).strip()


async def play(service: Service, client: Host) -> None:
    """Kill, start, stop and start the process, and use the service all the time."""
    print(f"{'start':<12} {await service.start()}")
    while await fetch(client, 5) < 5:  # noqa: ASYNC110  nothing in the lab tells when the first probe has succeeded
        await asyncio.sleep(0.2)
    load = await start_wrk(client, URL, connections=16, duration_s=600)
    await asyncio.sleep(PAUSE_S)

    await service.process.kill()
    await asyncio.sleep(PAUSE_S)
    served = await fetch(client, 50)
    print(f"{'kill -9':<12} {served} of 50 new connections are served while nobody is there")
    assert served == 50

    print(f"{'start':<12} {await service.start()}")
    await asyncio.sleep(PAUSE_S)
    assert await service.process.stop() == 0
    served = await fetch(client, 50)
    print(f"{'SIGTERM':<12} {served} of 50 new connections are served after an orderly stop")
    assert served == 50

    print(f"{'start':<12} {await service.start()}")
    await asyncio.sleep(PAUSE_S)
    load.signal(signal.SIGINT)
    await load.wait()
    result = parse_wrk(load.stdout)
    failed = sum(result.errors.values())
    print(f"{'wrk':<12} {result.requests:,} requests, {result.requests_per_s:,.0f} a second, {failed} failed")
    assert failed == 0, result.errors


async def main() -> None:
    """Set up the lab, play, remove what is left, and look whether it is gone."""
    async with Lab("restart example") as lab:
        site = await STANDARD.build(lab)
        for host in site.members:
            await host.nginx(body=f"{host.name}\n")
        service = Service(site.lb, site.lb.write("asynclb.yaml", (HERE / "asynclb.yaml").read_text()))
        await play(service, site.clients[0])
        assert await service.process.stop() == 0
        print(f"{'detach':<12} {await service.detach()}")
        curl = await site.clients[0].run("curl", "-sS", "-m", "1", URL)
        assert await curl.wait() != 0, "nothing forwards any more"


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except HostError as error:
        sys.exit(f"{error}")
    print("as expected")
