"""Run the web example in a lab: `sudo .venv/bin/python examples/web/run.py`.

The exit code is 0 if everything is as the README says.
"""

import asyncio
import sys
from collections import Counter
from pathlib import Path

from asynclb.errors import HostError
from asynclb.lab import STANDARD, VIP4, VIP6, Host, Lab, Process, Site

HERE = Path(__file__).resolve().parent
URLS = (f"http://{VIP4}/", f"http://[{VIP6}]/")


async def fetch(client: Host, url: str, times: int) -> Counter[str]:
    """Fetch the page a number of times, each on a new connection, and count which members answered."""
    headers = ("-H", "Connection: close")
    output = await client.check_output("curl", "-sS", "--fail", "-m", "5", *headers, f"{url}?[1-{times}]")
    return Counter(output.split())


async def members_up(lb: Host, count: int) -> None:
    """Wait until the balancer says that this many members of each pool are up."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 20
    while True:
        metrics = await lb.check_output("curl", "-s", "http://127.0.0.1:9180/metrics")
        up = [line for line in metrics.splitlines() if line.startswith("asynclb_member_up{") and line.endswith(" 1.0")]
        if len(up) == 2 * count:
            return
        if loop.time() > deadline:
            raise AssertionError(f"{len(up)} members are up, not {2 * count}\n{metrics}")
        await asyncio.sleep(0.1)


async def play(site: Site, balancer: Process, webs: dict[str, Process]) -> None:
    """Use the service, break a member, and make a mistake in the configuration."""
    client = site.clients[0]
    await members_up(site.lb, 3)
    for url in URLS:
        answers = await fetch(client, url, 200)
        print(f"{url:<28} {dict(sorted(answers.items()))}")
        assert set(answers) == {"be1", "be2", "be3"}
        assert 60 <= answers["be3"] <= 140, "be3 has half of the weight"

    await webs["be2"].kill()
    await members_up(site.lb, 2)
    for url in URLS:
        answers = await fetch(client, url, 50)
        print(f"{url:<28} {dict(sorted(answers.items()))} be2 was killed")
        assert answers.total() == 50
        assert "be2" not in answers

    config = site.lb.directory / "lb-asynclb.yaml"
    config.write_text(config.read_text().replace("weight: 2", "wieght: 3"))
    refused = await balancer.wait_for_log(r'"problems": \["[^"]*/([^"]*wieght[^"]*)"')
    print(f"{'a mistake is refused':<28} {refused.group(1)}")
    assert (await fetch(client, URLS[0], 20)).total() == 20, "a refused reload changes nothing"


async def main() -> None:
    """Set up the lab, play, compare what members saw, tear down."""
    async with Lab("web example") as lab:
        site = await STANDARD.build(lab)
        webs = {host.name: await host.nginx(body=f"{host.name}\n") for host in site.members}
        async with site.lb.balancer((HERE / "asynclb.yaml").read_text()) as balancer:
            await play(site, balancer, {name: web.process for name, web in webs.items()})
        seen = {hit.client for web in webs.values() for hit in web.hits()}
        print(f"{'members saw':<28} {', '.join(sorted(seen))}")
        assert seen == {"10.0.1.11", "2001:db8:1::11"}, "the client's own addresses"


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except HostError as error:
        sys.exit(f"{error}")
    print("as expected")
