"""Turns: first come, first served, a few at once, and nobody silent keeps others waiting."""

import threading

from hostagent.work.turns import Turns

LONG_S = 10


def hold(turns: Turns, entered: threading.Event, leave: threading.Event) -> threading.Thread:
    """Hold a turn in a thread until told to leave."""

    def run() -> None:
        with turns.take():
            entered.set()
            leave.wait(3 * LONG_S)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_turn_waits_for_a_place() -> None:
    turns = Turns(at_once=1, most=2, patience_s=LONG_S)
    first, second, leave = threading.Event(), threading.Event(), threading.Event()
    hold(turns, first, leave)
    assert first.wait(LONG_S)
    thread = hold(turns, second, threading.Event())
    assert not second.wait(0.05)
    leave.set()
    assert second.wait(LONG_S)
    assert thread.is_alive()


def test_who_is_silent_gives_its_place_up() -> None:
    turns = Turns(at_once=1, most=2, patience_s=0.01)
    first, second, leave = threading.Event(), threading.Event(), threading.Event()
    hold(turns, first, leave)
    assert first.wait(LONG_S)
    hold(turns, second, leave)
    assert second.wait(LONG_S)
    leave.set()


def test_no_more_than_the_most_hang_at_once() -> None:
    turns = Turns(at_once=1, most=2, patience_s=0.01)
    entered, leave = [threading.Event() for _ in range(3)], threading.Event()
    for event in entered:
        hold(turns, event, leave)
    assert entered[0].wait(LONG_S)
    assert entered[1].wait(LONG_S)
    assert not entered[2].wait(0.1)
    leave.set()
    assert entered[2].wait(LONG_S)
