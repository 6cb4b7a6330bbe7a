"""The timer wheel against a list that is searched: who is due, when, and that nobody is forgotten."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asynclb.datapath.proxy.wheel import Wheel

TICK_S = 0.25
ITEMS = st.integers(0, 9)
DELAYS = st.floats(-2.0, 20.0)


class WheelAgainstList(RuleBasedStateMachine):
    """Adds, removes and moves marks in any order, and lets time pass in any steps."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.1
        self.wheel: Wheel[int] = Wheel(TICK_S, self.now_s)
        self.marks: dict[int, tuple[float, int]] = {}

    @rule(item=ITEMS, delay_s=DELAYS)
    def add(self, item: int, delay_s: float) -> None:
        """Mark an item, for the past too."""
        self.remove(item)
        due_s = self.now_s + delay_s
        self.marks[item] = (max(due_s, self.now_s), self.wheel.add(item, due_s))  # the past is over: it means now

    @rule(item=ITEMS)
    def remove(self, item: int) -> None:
        """Take a mark off."""
        if item in self.marks:
            self.wheel.remove(item, self.marks.pop(item)[1])

    @rule(item=ITEMS)
    def remove_again(self, item: int) -> None:
        """Taking off what is not there changes nothing."""
        if item not in self.marks:
            self.wheel.remove(item, 4000)

    @rule(step_s=st.floats(0, 9))
    def advance(self, step_s: float) -> None:
        """Let time pass: whoever comes up was due, and whoever was due for more than a tick comes up."""
        self.now_s += step_s
        came = list(self.wheel.due(self.now_s))
        assert len(came) == len(set(came))
        for item in came:
            due_s, _ = self.marks.pop(item)
            assert due_s <= self.now_s
        assert all(due_s > self.now_s - 2 * TICK_S for due_s, _ in self.marks.values())

    @rule(step_s=st.floats(0.5, 5), removed=st.sets(ITEMS), added=st.dictionaries(ITEMS, DELAYS, max_size=4))
    def advance_while_others_change(self, step_s: float, removed: set[int], added: dict[int, float]) -> None:
        """Whoever comes up first takes others off and marks others; nobody of them is forgotten."""
        self.now_s += step_s
        came = self.wheel.due(self.now_s)
        first = next(came, None)
        if first is not None:
            del self.marks[first]
            for item in removed:
                self.remove(item)
            for item, delay_s in added.items():
                self.add(item, delay_s)
        for item in came:
            due_s, _ = self.marks.pop(item)
            assert due_s <= self.now_s
        assert len(self.wheel) == len(self.marks)

    @invariant()
    def nobody_is_lost(self) -> None:
        """Every mark is there, once."""
        assert len(self.wheel) == len(self.marks)


TestWheelAgainstList = WheelAgainstList.TestCase
TestWheelAgainstList.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@settings(deadline=None)
@given(st.floats(0, 300), st.floats(0, 1e6))
def test_nobody_comes_up_early_and_everybody_within_a_tick(delay_s: float, now_s: float) -> None:
    """An item comes up at the first tick that is not before its time."""
    wheel: Wheel[str] = Wheel(TICK_S, now_s)
    due_s = now_s + delay_s
    wheel.add("flow", due_s)
    assert list(wheel.due(due_s - 1e-3)) == []
    assert list(wheel.due(due_s + TICK_S + 1e-3)) == ["flow"]


def test_a_mark_made_while_its_tick_comes_up_is_not_lost() -> None:
    """What comes up takes the rest of its tick off and marks a third item for the past: that one comes up too."""
    wheel: Wheel[str] = Wheel(TICK_S, 0.0)
    ticks = {item: wheel.add(item, 1.0) for item in ("one", "two")}
    came = wheel.due(2.0)
    other = {"one": "two", "two": "one"}[next(came)]
    wheel.remove(other, ticks[other])
    wheel.add("three", 0.5)
    assert list(came) == ["three"]
    assert len(wheel) == 0
