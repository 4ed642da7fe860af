"""Pair colour, depth and camera_info of one camera by their stamps. Knows no ROS: stamps and payloads in."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

TOPICS = ("image", "depth", "camera_info")
NS = 1_000_000_000
JUMP_BACK_NS = NS  # a stamp this much older than the newest means a restarted clock or a looped bag


@dataclass(frozen=True)
class Sample:
    """One message: stamp of its header, arrival on the local monotonic clock, and the undecoded payload."""

    stamp_ns: int
    arrival_ns: int
    payload: object


@dataclass(frozen=True)
class Triple:
    """Samples of the three topics that belong together; ``stamp_ns`` is that of the image."""

    image: Sample
    depth: Sample
    camera_info: Sample

    @property
    def stamp_ns(self) -> int:
        return self.image.stamp_ns


@dataclass
class _Topic:
    samples: deque[Sample]
    received: int = 0
    last_arrival_ns: int | None = None
    last_stamp_ns: int = 0


@dataclass
class FramePairer:
    """A short buffer for each topic, and the newest triple of them.

    Messages may come late, out of order, doubled or not at all; a stamp that jumps back by more than a
    second (restarted simulation, looped bag) empties the buffers, since what is older can no longer pair.
    """

    slop_ns: int
    size: int = 8
    misses: int = 0
    _judged_ns: int = 0  # images up to this stamp have been counted
    _topics: dict[str, _Topic] = field(init=False)

    def __post_init__(self) -> None:
        self._topics = {name: _Topic(deque(maxlen=self.size)) for name in TOPICS}

    def add(self, topic: str, sample: Sample) -> None:
        """Put a message in."""
        entry = self._topics[topic]
        newest = self._newest_stamp()
        if newest is not None and sample.stamp_ns < newest - JUMP_BACK_NS:
            self.clear()
        entry.received += 1
        entry.last_arrival_ns, entry.last_stamp_ns = sample.arrival_ns, sample.stamp_ns
        entry.samples.append(sample)

    def clear(self) -> None:
        """Forget the messages; counters and arrival times stay."""
        self._judged_ns = 0
        for entry in self._topics.values():
            entry.samples.clear()

    def count_misses(self) -> int:
        """Images so far that found no partner although both other topics went on before and after them."""
        others = [[sample.stamp_ns for sample in self._topics[topic].samples] for topic in TOPICS[1:]]
        if not all(others):
            return self.misses
        first, last = max(map(min, others)), min(map(max, others))
        for image in self._topics["image"].samples:
            if image.stamp_ns > self._judged_ns and first <= image.stamp_ns < last:
                self.misses += self._match(image) is None
        self._judged_ns = max(self._judged_ns, last - 1)
        return self.misses

    def at(self, stamp_ns: int) -> Triple | None:
        """The triple whose image has exactly this stamp, None if it is no longer in the buffer."""
        for image in self._topics["image"].samples:
            if image.stamp_ns == stamp_ns:
                return self._match(image)
        return None

    def newest(self, newer_than_ns: int | None = None) -> Triple | None:
        """The triple with the newest image stamp (beyond ``newer_than_ns``, if given), or None."""
        for image in sorted(self._topics["image"].samples, key=lambda sample: -sample.stamp_ns):
            if newer_than_ns is not None and image.stamp_ns <= newer_than_ns:
                return None
            triple = self._match(image)
            if triple is not None:
                return triple
        return None

    def silence_s(self, topic: str, now_ns: int) -> float | None:
        """Seconds since the last message of a topic arrived, or None if none ever did."""
        last = self._topics[topic].last_arrival_ns
        return None if last is None else max(0, now_ns - last) / NS

    def received(self, topic: str) -> int:
        """How many messages of a topic were put in."""
        return self._topics[topic].received

    def rate_hz(self, topic: str) -> float:
        """Rate by the stamps in the buffer; 0 with fewer than two."""
        stamps = sorted(sample.stamp_ns for sample in self._topics[topic].samples)
        if len(stamps) < 2 or stamps[-1] == stamps[0]:
            return 0.0
        return (len(stamps) - 1) * NS / (stamps[-1] - stamps[0])

    def problem(self, now_ns: int, silent_after_s: float) -> tuple[str, str] | None:
        """(topic, what is wrong) if there is no triple or a topic fell silent; None if all is well."""
        for topic in TOPICS:
            silence = self.silence_s(topic, now_ns)
            if silence is None:
                return topic, "has sent nothing yet"
            if silence > silent_after_s:
                return topic, f"has been silent for {silence:.1f} s"
        if self.newest() is None:
            topic, gap_ns = self._worst_gap()
            slop = self.slop_ns / NS
            if gap_ns <= self.slop_ns:
                return topic, "has come for other images than the rest so far"
            return topic, f"is {gap_ns / NS:.3f} s away from the nearest image stamp, more than {slop:g} s"
        return None

    def _worst_gap(self) -> tuple[str, int]:
        """The topic that keeps the newest images from pairing, and by how much (ns)."""
        images = self._stamps("image")
        gaps = {topic: self._best_gap(topic, images) for topic in TOPICS[1:]}
        topic = max(gaps, key=lambda name: gaps[name])
        return topic, gaps[topic]

    def _best_gap(self, topic: str, images: Sequence[int]) -> int:
        return min(abs(a - b) for a in images for b in self._stamps(topic))

    def _stamps(self, topic: str) -> list[int]:
        """Stamps in the buffer; the last known one if the topic's clock differs from the others' and the
        buffer is empty."""
        entry = self._topics[topic]
        return [sample.stamp_ns for sample in entry.samples] or [entry.last_stamp_ns]

    def _match(self, image: Sample) -> Triple | None:
        depth = self._nearest("depth", image.stamp_ns)
        info = self._nearest("camera_info", image.stamp_ns)
        return None if depth is None or info is None else Triple(image, depth, info)

    def _nearest(self, topic: str, stamp_ns: int) -> Sample | None:
        """The sample closest to a stamp, None beyond the slop. The later arrival wins a tie."""
        best = min(
            reversed(self._topics[topic].samples),
            key=lambda sample: abs(sample.stamp_ns - stamp_ns),
            default=None,
        )
        return best if best is not None and abs(best.stamp_ns - stamp_ns) <= self.slop_ns else None

    def _newest_stamp(self) -> int | None:
        stamps = [s.stamp_ns for entry in self._topics.values() for s in entry.samples]
        return max(stamps, default=None)
