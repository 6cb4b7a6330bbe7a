"""Several engines, each in a worker process: `workers: N`.

    datapath --orders--> worker 0 .. N-1          each with a ring, a sender and a share of the flows of every interface
             <--answers-
             <--memory files: flows and counters, read here at any time

Laws:
  1. What a worker has is told as differences. `Present` is what all shall have; a worker that is `ready` has it.
  2. A change is committed when every worker that is ready has prepared it. One that cannot, or dies at it, makes the
     change fail, and nothing has changed.
  3. A worker that dies is followed by another one with the same number, sockets and memory: its place in the groups
     stays, so nobody's flows meet another worker, and its own go on when it is back. What came meanwhile waits in its
     rings. Counters cannot fall: they are where they were.
  4. A worker that does not answer is killed, and law 3 holds.
  5. Workers end when the channel does, so also when this process is killed. What is left then is what one process
     leaves: the guard, which the next start takes over; sockets and memory are gone with their holders.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Collection, Mapping
from contextlib import suppress
from ctypes import Array
from dataclasses import replace

from asynclb.datapath.core import layout
from asynclb.datapath.core.memory import MARKS, FlowMemory
from asynclb.datapath.core.parting import Ending
from asynclb.datapath.core.values import MAX_MEMBERS, MAX_RULES, Asked, CoreCounters, NextHop
from asynclb.datapath.frames.report import total
from asynclb.datapath.packet.crew import Pages
from asynclb.datapath.packet.engine import MAX_FLOWS, Change, Present, change, changed_hops
from asynclb.datapath.packet.orders import Order, hear_answer, tell
from asynclb.datapath.packet.worker import HELLO
from asynclb.errors import HostError
from asynclb.events import Emit, Event

_ANSWER_S = 5.0  # an image of 100 MiB is taken in within a tenth of that
_PART_S = 30.0  # two walks through the flow table, in small steps
_START_S = 10.0  # an interpreter on a busy machine
_END_S = 2.0
_AGAIN_S = 1.0  # between attempts, when a worker dies as soon as it lives
_SOUND_S = 5.0
_MAIN = "from asynclb.datapath.packet.worker import main; main()"


class _Worker:
    """One place in the crew, and the process that fills it now. Owner: `Workers`."""

    def __init__(self, number: int, flows: int) -> None:
        self.number = number
        self.has = Present()
        self.prepared: Present | None = None
        self.ready = False
        self.ended = asyncio.Event()
        self.started_s = 0.0
        self.process: subprocess.Popen[bytes] | None = None
        self._flows = flows
        self._loop = asyncio.get_running_loop()
        self._memory = os.memfd_create(f"asynclb-worker-{number}", os.MFD_CLOEXEC)
        self.flows = FlowMemory(flows, MAX_RULES, MAX_MEMBERS, self._memory, look=True)
        self._channel: socket.socket | None = None
        self._serial = HELLO
        self._waiting: dict[int, asyncio.Future[str]] = {}

    async def spawn(self) -> None:
        """Start a process and wait until it is ready. Raises: OSError -> it is not."""
        self.has, self.prepared = Present(), None
        self.ended.clear()
        self.started_s = time.monotonic()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.process = await asyncio.to_thread(_start, theirs.fileno(), self._memory, self._flows)
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._channel = ours
        hello = self._expect(HELLO)
        self._loop.add_reader(ours.fileno(), self._hear)
        why = await self.in_time(hello, _START_S)
        if why:
            raise OSError(f"worker {self.number} could not be started: {why}")

    async def ask(self, order: Order, wanted: Change | None = None) -> str:
        """Send an order now and wait for the answer, which says why not, or nothing."""
        return await self.in_time(self.tell(order, wanted), _ANSWER_S)

    def tell(self, order: Order, wanted: Change | None = None, ending: Ending | None = None) -> asyncio.Future[str]:
        """Send an order now; the answer comes later. Does not raise: a worker that takes no order is killed."""
        self._serial += 1
        answer = self._expect(self._serial)
        try:
            if self._channel is None:
                raise ConnectionError("it has ended")
            tell(self._channel, order, self._serial, wanted, ending)
        except OSError as error:
            del self._waiting[self._serial]
            answer.set_result(str(error))
            self.kill()
        return answer

    def kill(self) -> None:
        """End the process by force; its end is seen as any other."""
        if self.process is not None:
            self.process.kill()

    def hang_up(self) -> None:
        """Let the process end by itself, or see that it has ended."""
        channel, self._channel = self._channel, None
        if channel is not None:
            self._loop.remove_reader(channel.fileno())
            channel.close()
        self.ready = False
        for answer in self._waiting.values():
            answer.set_result("it has ended")
        self._waiting.clear()

    async def reap(self) -> str:
        """Wait for the process and say how it ended; one that does not end is killed."""
        process, self.process = self.process, None
        if process is None:
            return "it was not started"
        try:
            await asyncio.to_thread(process.wait, _END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
        code = process.returncode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with {code}"

    def close(self) -> None:
        """Give the memory back."""
        self.flows.close()
        os.close(self._memory)

    def _expect(self, serial: int) -> asyncio.Future[str]:
        answer: asyncio.Future[str] = self._loop.create_future()
        self._waiting[serial] = answer
        return answer

    async def in_time(self, answer: asyncio.Future[str], limit_s: float = _ANSWER_S) -> str:
        """Wait for an answer; who gives none is killed."""
        done, _ = await asyncio.wait((answer,), timeout=limit_s)
        if done:
            return answer.result()
        self.kill()
        return f"no answer within {limit_s:g} s"

    def _hear(self) -> None:
        """Take the answers; a channel that ends is a worker that ends."""
        with suppress(BlockingIOError):
            while self._channel is not None:
                try:
                    found = hear_answer(self._channel)
                except ConnectionError:
                    found = None
                if found is None:
                    self.hang_up()
                    self.ended.set()
                    return
                serial, why = found
                answer = self._waiting.pop(serial, None)
                if answer is not None:
                    answer.set_result(why)


class Workers:
    """Owner: the datapath."""

    def __init__(self, engines: int, emit: Emit) -> None:
        """Make room for so many workers. Raises: OSError -> no memory files."""
        self.engines = engines
        self._emit = emit
        # Clients do not hash evenly, so each has room for twice its share. The sweep makes the memory real.
        flows = min(MAX_FLOWS, 2 * MAX_FLOWS // engines)
        self._workers = tuple(_Worker(number, flows) for number in range(engines))
        self._present = Present()
        self._wanted: Present | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start all of them. Raises: HostError -> one could not be started; then none is left."""
        try:
            async with asyncio.TaskGroup() as group:
                for worker in self._workers:
                    group.create_task(self._spawn(worker))
        except* OSError as errors:
            await self._end()
            raise HostError(str(errors.exceptions[0])) from errors
        for worker in self._workers:
            worker.ready = True
            self._spawn_task(self._watch(worker))

    async def prepare(self, wanted: Present) -> None:
        """Let every worker that is ready prepare. Raises: OSError -> one cannot, or died at it."""
        self._wanted = wanted
        ready = [worker for worker in self._workers if worker.ready]
        answers = await asyncio.gather(
            *(worker.ask(Order.PREPARE, change(worker.has, wanted, worker.number)) for worker in ready)
        )
        for worker, why in zip(ready, answers, strict=True):
            if why:
                raise OSError(f"worker {worker.number}: {why}")
            worker.prepared = wanted

    async def commit(self) -> None:
        """Let all of them have it; those that are on their way back get it before they are ready."""
        wanted, self._wanted = self._wanted, None
        if wanted is None:
            return
        self._present = wanted
        answers: list[Awaitable[str | None]] = []
        for worker in self._workers:
            if worker.ready and worker.prepared is wanted:
                hops = changed_hops(worker.has.hops, wanted.hops)
                worker.has, worker.prepared = wanted, None
                answers.append(worker.in_time(worker.tell(Order.COMMIT, Change(hops=hops))))
            elif worker.ready:  # it came back after the others had prepared
                worker.ready = False
                answers.append(self._catch_up(worker))
        await asyncio.gather(*answers)

    async def abandon(self) -> None:
        """Let all of them give up what was prepared."""
        self._wanted = None
        for worker in self._workers:
            worker.prepared = None
            if worker.ready:
                worker.tell(Order.ABANDON)

    def set_hops(self, hops: Mapping[int, NextHop]) -> None:
        """Tell those that changed."""
        changed = changed_hops(self._present.hops, hops)
        self._present = replace(self._present, hops=hops)
        for worker in self._workers:
            if worker.ready:
                worker.has = self._present
                if changed:
                    worker.tell(Order.HOPS, Change(hops=changed))

    async def part(self, ending: Ending) -> None:
        """Tell all of them; who is away is told when it is back, for flows outlive their worker."""
        await asyncio.gather(*(self._part(worker, ending) for worker in self._workers))

    async def _part(self, worker: _Worker, ending: Ending) -> None:
        why = "it is away"
        while why:
            if worker.ready:
                why = await worker.in_time(worker.tell(Order.PART, ending=ending), _PART_S)
            if why:
                await asyncio.sleep(_AGAIN_S)

    def release_ids(self, rules: Collection[int], members: Collection[int]) -> CoreCounters:
        """Return the sum of all; nobody counts under these ids any more, so they can be cleared from here."""
        return total([worker.flows.release_ids(rules, members) for worker in self._workers])

    def counters(self) -> CoreCounters:
        """Return the sum of all."""
        return total(worker.flows.counters() for worker in self._workers)

    def tables(self) -> tuple[Pages, ...]:
        """Return every worker's flow table."""
        return tuple(worker.flows.flows for worker in self._workers)

    def listen(self, *, ends: bool, starts: bool, sample: int) -> None:
        """Let all of them tell, also those that come back: it stands in their memory."""
        for worker in self._workers:
            worker.flows.listen(ends=ends, starts=starts, sample=sample)

    def untold(self) -> int:
        """Return what all of them did not tell."""
        return sum(worker.flows.untold() for worker in self._workers)

    def told(self) -> tuple[Array[layout.ToldFlow], ...]:
        """Take what each has told."""
        return tuple(worker.flows.told() for worker in self._workers)

    def snat_marks(self, sources: int) -> bytearray:
        """Return what is in use in any of the tables: the same port may serve destinations of several workers."""
        now_ns, marks = time.monotonic_ns(), bytearray(sources * 2 * MARKS)
        for worker in self._workers:
            also = int.from_bytes(worker.flows.snat_marks(sources, now_ns), "little")
            marks = bytearray((int.from_bytes(marks, "little") | also).to_bytes(len(marks), "little"))
        return marks

    def ask(self, _frame: bytes, _ifindex: int) -> Asked | None:
        """Return None: the workers' cores are theirs, and a question is not worth interrupting them."""
        return None

    def flow_count(self) -> int:
        """Return how many flows are open."""
        return sum(worker.flows.flow_count() for worker in self._workers)

    async def close(self) -> None:
        """Let all of them end, and wait for that."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end()
        for worker in self._workers:
            worker.close()

    async def _end(self) -> None:
        for worker in self._workers:
            worker.hang_up()
        await asyncio.gather(*(worker.reap() for worker in self._workers))

    def _spawn_task(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = asyncio.get_running_loop().create_task(work, name="packet-worker")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _spawn(self, worker: _Worker) -> None:
        await worker.spawn()
        pid = worker.process.pid if worker.process is not None else 0
        took_ms = round((time.monotonic() - worker.started_s) * 1e3, 1)
        self._emit(Event.WORKER_STARTED, datapath="packet", worker=worker.number, pid=pid, took_ms=took_ms)

    async def _watch(self, worker: _Worker) -> None:
        """Follow one place: whenever its worker ends, let another one take it."""
        while True:
            await worker.ended.wait()
            pid = worker.process.pid if worker.process is not None else 0
            why = await worker.reap()
            self._emit(Event.WORKER_DIED, datapath="packet", worker=worker.number, pid=pid, why=why)
            if time.monotonic() - worker.started_s < _SOUND_S:
                await asyncio.sleep(_AGAIN_S)
            try:
                await self._spawn(worker)
                await self._catch_up(worker)
            except OSError as error:
                self._emit(Event.DATAPATH_FAILED, datapath="packet", error=str(error))
                worker.kill()
                worker.hang_up()
                worker.ended.set()

    async def _catch_up(self, worker: _Worker) -> None:
        """Tell a worker everything that it lacks, until there is nothing; then it is ready."""
        while worker.has is not self._present:
            wanted = self._present
            hops = changed_hops(worker.has.hops, wanted.hops)
            steps = (
                worker.tell(Order.PREPARE, change(worker.has, wanted, worker.number)),
                worker.tell(Order.COMMIT, Change(hops=hops)),
            )
            for step in steps:
                why = await worker.in_time(step)
                if why:
                    raise OSError(f"worker {worker.number}: {why}")
            worker.has = wanted
        worker.ready = True


def _start(channel: int, memory: int, flows: int) -> subprocess.Popen[bytes]:
    """Start the process. It finds the package where this one did."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, str(channel), str(memory), str(flows)],
        pass_fds=(channel, memory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # what a terminal sends to its group is not for workers
        env={**os.environ, "PYTHONPATH": path},
    )
