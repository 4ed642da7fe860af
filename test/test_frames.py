"""Pairing by stamp: jitter, drops, disorder, doubled messages, jumping clocks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmo_ros.camera.frames import NS, TOPICS, FramePairer, Sample

SLOP_NS = 20_000_000
PERIOD_NS = 100_000_000


def sample(stamp_ns: int, arrival_ns: int | None = None) -> Sample:
    return Sample(stamp_ns, stamp_ns if arrival_ns is None else arrival_ns, f"message of {stamp_ns}")


def add_all(pairer: FramePairer, stamp_ns: int, depth_ns: int = 0, info_ns: int = 0) -> None:
    """One message on each topic; depth_ns and info_ns are offsets to the stamp of the image."""
    for topic, offset in zip(TOPICS, (0, depth_ns, info_ns), strict=True):
        pairer.add(topic, sample(stamp_ns + offset))


def test_newest_triple_is_taken() -> None:
    pairer = FramePairer(SLOP_NS)
    for number in range(1, 4):
        add_all(pairer, number * PERIOD_NS)
    triple = pairer.newest()
    assert triple is not None
    assert triple.stamp_ns == triple.depth.stamp_ns == triple.camera_info.stamp_ns == 3 * PERIOD_NS


@pytest.mark.parametrize(("offset_ns", "pairs"), [(SLOP_NS, True), (-SLOP_NS, True), (SLOP_NS + 1, False)])
def test_slop_is_the_limit(offset_ns: int, pairs: bool) -> None:
    pairer = FramePairer(SLOP_NS)
    add_all(pairer, NS, depth_ns=offset_ns)
    assert (pairer.newest() is not None) == pairs


def test_late_depth_falls_back_on_the_frame_before() -> None:
    pairer = FramePairer(SLOP_NS)
    add_all(pairer, NS)
    pairer.add("image", sample(NS + PERIOD_NS))
    triple = pairer.newest()
    assert triple is not None
    assert triple.stamp_ns == NS
    pairer.add("camera_info", sample(NS + PERIOD_NS))
    pairer.add("depth", sample(NS + PERIOD_NS))
    assert pairer.newest().stamp_ns == NS + PERIOD_NS  # type: ignore[union-attr]


def test_newer_than_gives_no_frame_twice() -> None:
    pairer = FramePairer(SLOP_NS)
    add_all(pairer, NS)
    assert pairer.newest(newer_than_ns=NS) is None
    assert pairer.newest(newer_than_ns=NS - 1) is not None


def test_frame_of_a_stamp() -> None:
    pairer = FramePairer(SLOP_NS)
    add_all(pairer, NS)
    add_all(pairer, NS + PERIOD_NS)
    assert pairer.at(NS).stamp_ns == NS  # type: ignore[union-attr]
    assert pairer.at(NS + 1) is None


def test_clock_that_jumps_back_starts_anew() -> None:
    """A bag that loops: frames of the first round must not be newer than those of the second."""
    pairer = FramePairer(SLOP_NS)
    add_all(pairer, 100 * NS)
    add_all(pairer, 3 * NS)
    assert pairer.newest().stamp_ns == 3 * NS  # type: ignore[union-attr]


def test_disorder_within_a_second_is_no_jump() -> None:
    pairer = FramePairer(SLOP_NS)
    add_all(pairer, 2 * NS)
    add_all(pairer, 2 * NS - PERIOD_NS)
    assert pairer.newest().stamp_ns == 2 * NS  # type: ignore[union-attr]


@settings(deadline=None)
@given(st.permutations([(topic, number) for topic in TOPICS for number in range(1, 5)]))
def test_any_order_of_arrival_ends_at_the_newest(arrivals: list[tuple[str, int]]) -> None:
    pairer = FramePairer(SLOP_NS)
    for topic, number in arrivals:
        pairer.add(topic, sample(number * PERIOD_NS))
    assert pairer.newest().stamp_ns == 4 * PERIOD_NS  # type: ignore[union-attr]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(TOPICS), st.integers(0, 10 * NS), st.integers(0, 10 * NS)), max_size=60
    )
)
def test_a_triple_always_belongs_together(arrivals: list[tuple[str, int, int]]) -> None:
    pairer = FramePairer(SLOP_NS, size=5)
    for topic, stamp_ns, arrival_ns in arrivals:
        pairer.add(topic, sample(stamp_ns, arrival_ns))
        triple = pairer.newest()
        if triple is not None:
            assert abs(triple.depth.stamp_ns - triple.stamp_ns) <= SLOP_NS
            assert abs(triple.camera_info.stamp_ns - triple.stamp_ns) <= SLOP_NS
    assert pairer.count_misses() <= sum(topic == "image" for topic, _, _ in arrivals)


def test_problem_names_the_topic_that_never_came() -> None:
    pairer = FramePairer(SLOP_NS)
    pairer.add("image", sample(NS))
    pairer.add("camera_info", sample(NS))
    assert pairer.problem(NS, 1.0) == ("depth", "has sent nothing yet")


def test_problem_names_the_topic_that_fell_silent() -> None:
    pairer = FramePairer(SLOP_NS)
    add_all(pairer, NS)
    assert pairer.problem(NS + NS // 2, 1.0) is None
    pairer.add("image", sample(4 * NS))
    pairer.add("camera_info", sample(4 * NS))
    assert pairer.problem(4 * NS, 1.0) == ("depth", "has been silent for 3.0 s")


def test_problem_names_the_topic_that_is_apart() -> None:
    pairer = FramePairer(SLOP_NS)
    add_all(pairer, NS, depth_ns=50_000_000)
    topic, text = pairer.problem(NS, 1.0)  # type: ignore[misc]
    assert topic == "depth"
    assert "0.050 s" in text
    assert "0.02 s" in text


def test_problem_of_topics_that_come_for_different_images() -> None:
    pairer = FramePairer(SLOP_NS)
    for topics, stamp_ns in ((("image", "depth"), NS), (("image", "camera_info"), NS + PERIOD_NS)):
        for topic in topics:
            pairer.add(topic, sample(stamp_ns, NS))
    assert pairer.problem(NS, 1.0) == ("depth", "has come for other images than the rest so far")


def test_a_clock_that_differs_by_seconds_is_told_whichever_message_came_last() -> None:
    pairer = FramePairer(SLOP_NS)
    for number in range(3):
        for topic, behind_ns in (("image", 0), ("camera_info", 0), ("depth", 5 * NS)):
            pairer.add(topic, sample(10 * NS + number * PERIOD_NS - behind_ns, 10 * NS))
            found = pairer.problem(10 * NS, 60.0)
            if number > 0 or topic == "depth":
                assert found is not None and found[0] == "depth"
                assert "4.9" in found[1] or "5.0" in found[1] or "5.1" in found[1], found


def test_misses_are_counted_once() -> None:
    pairer = FramePairer(SLOP_NS)
    for number in range(1, 7):
        add_all(pairer, number * PERIOD_NS, depth_ns=3 * SLOP_NS if number == 3 else 0)
    assert pairer.count_misses() == 1
    assert pairer.count_misses() == 1


def test_rate_by_stamps() -> None:
    pairer = FramePairer(SLOP_NS)
    assert pairer.rate_hz("image") == 0.0
    for number in range(5):
        pairer.add("image", sample(number * PERIOD_NS))
    assert pairer.rate_hz("image") == pytest.approx(10.0)
