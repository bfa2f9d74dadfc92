"""What is published reaches those who follow, in order, and nobody waits for a slow one."""

from __future__ import annotations

import threading

from lvagent.agent.news import MAX_TEXT, Follower, News

VM = "i-0000000001"


def kinds(follower: Follower) -> list[str]:
    found = []
    while (item := follower.take(timeout=0)) is not None:
        found.append(item.kind)
    return found


def test_a_follower_gets_what_comes_after_him_in_order() -> None:
    news = News(lambda vm: ["vpc-aaaaaaaaaa"] if vm == VM else [])
    news.publish(VM, "before")
    follower = news.follow()
    news.publish(VM, "crashed", reason="why")
    news.publish("", "libvirt-back")
    first, second = follower.take(0), follower.take(0)
    assert first is not None
    assert second is not None
    assert (first.number, first.vm, first.kind, first.detail) == (2, VM, "crashed", {"reason": "why"})
    assert first.vpcs == {"vpc-aaaaaaaaaa"}
    assert (second.number, second.kind, second.vpcs) == (3, "libvirt-back", frozenset())
    assert follower.take(0) is None


def test_who_was_away_goes_on_where_he_was() -> None:
    news = News(kept=3)
    for kind in "abcde":
        news.publish(VM, kind)
    for after, expected, missed in (
        (2, "cde", False),
        (4, "e", False),
        (5, "", False),
        (1, "cde", True),
        (9, "", True),
    ):
        follower = news.follow(after)
        assert ("".join(kinds(follower)), follower.missed) == (expected, missed), after


def test_nothing_is_missed_of_an_empty_ring() -> None:
    news = News()
    assert not news.follow(0).missed
    assert news.follow(1).missed


def test_who_does_not_keep_up_gets_what_waited_and_no_more() -> None:
    news = News()
    slow, quick = news.follow(most=2), news.follow()
    for kind in "abc":
        news.publish(VM, kind)
    assert not slow.overrun
    assert kinds(slow) == ["a", "b"]
    assert slow.overrun
    news.publish(VM, "d")
    assert kinds(slow) == []
    assert kinds(quick) == ["a", "b", "c", "d"]


def test_long_texts_are_cut() -> None:
    news = News()
    follower = news.follow()
    news.publish(VM, "x", text="y" * 2 * MAX_TEXT, number=7)
    item = follower.take(0)
    assert item is not None
    assert item.detail == {"text": "y" * MAX_TEXT, "number": 7}


def test_a_close_wakes_every_follower_and_those_to_come() -> None:
    news = News()
    follower = news.follow()
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.append(follower.take(timeout=60)))
    waiting.start()
    news.close()
    waiting.join(timeout=30)
    assert answers == [None]
    assert follower.closed
    assert news.follow().closed


def test_who_left_is_forgotten() -> None:
    news = News()
    with news.follow() as follower:
        pass
    news.publish(VM, "x")
    assert follower.closed
    assert follower.take(0) is None


def test_many_publishers_and_followers_at_once() -> None:
    news = News()
    followers = [news.follow() for _ in range(4)]
    threads = [threading.Thread(target=lambda: [news.publish(VM, "x") for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for follower in followers:
        numbers = [item.number for _ in range(800) if (item := follower.take(0)) is not None]
        assert numbers == list(range(1, 801))
