"""RGB-D frames out of a rosbag2 recording (sqlite3 or MCAP), without ROS: ``rosbags`` reads it.

Messages are decoded and paired by the code that the node uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molmo_ros.camera.compressed import decode_compressed_color, decode_compressed_depth
from molmo_ros.camera.conversions import decode_color, decode_depth, make_frame, stamp_to_ns
from molmo_ros.camera.frames import TOPICS, FramePairer, Sample, Triple
from molmo_ros.camera.unaligned_depth import depth_camera, is_apart, refusal
from molmo_ros.datatypes import Depth, DepthCamera, RgbdFrame
from molmo_ros.errors import CameraInfoError, FrameError, TransformError
from molmo_ros.perception.rectify import is_rectified

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

    from molmo_ros.recording.bag_tf import BagTransforms

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
BUFFER = 30  # messages of each topic: a recorder writes topics some tenths of a second apart


@dataclass(frozen=True)
class BagTopics:
    """Names of the topics of a camera; that of the depth's own camera_info is "" if there is none."""

    image: str
    depth: str
    camera_info: str
    depth_camera_info: str = ""


class Bag:
    """An open recording; ``open_bag`` makes it. ``unpaired``: images so far without depth or camera_info."""

    def __init__(self, reader: AnyReader, name: str) -> None:
        self._reader, self.name = reader, name
        self._connections = {c.topic: c for c in reader.connections}
        self.unpaired = 0

    def image_topics(self) -> dict[str, str]:
        """Name -> "color", "depth" or "empty", of all topics that hold images."""
        found = [t for t, c in self._connections.items() if c.msgtype in (RAW, COMPRESSED)]
        kinds = dict.fromkeys(found, "empty")
        for topic in found:
            for _, msg in self.messages([topic]):
                kinds[topic] = "depth" if _is_depth(msg) else "color"
                break
        return kinds

    def find_topics(
        self, image: str = "", depth: str = "", camera_info: str = "", depth_camera_info: str = ""
    ) -> BagTopics:
        """The topics with these names; those that are not named are found by type.

        Raises: FrameError listing the image topics, if one is missing or several could be meant.
        """
        kinds = self.image_topics()
        image = self._named(image, (RAW, COMPRESSED), kinds) or self._only("color", kinds, "--image")
        depth = self._named(depth, (RAW, COMPRESSED), kinds) or self._only("depth", kinds, "--depth")
        info = self._named(camera_info, (INFO,), kinds) or self._info_of(image)
        beside = _beside(depth)
        depth_info = self._named(depth_camera_info, (INFO,), kinds)
        return BagTopics(image, depth, info, depth_info or (beside if beside in self._connections else ""))

    def messages(self, topics: list[str]) -> Iterator[tuple[str, Any]]:
        """(topic, message) in the order of recording. Raises: FrameError if the file ends too early."""
        connections = [self._connections[topic] for topic in topics if topic in self._connections]
        if not connections:
            return
        with readable(self.name):
            for connection, _, data in self._reader.messages(connections=connections):
                yield connection.topic, self._reader.deserialize(data, connection.msgtype)

    @cached_property
    def transforms(self) -> BagTransforms:
        """All of /tf and /tf_static. Raises: FrameError if the file ends too early."""
        from molmo_ros.recording.bag_tf import TF, TF_STATIC, BagTransforms

        return BagTransforms(self.messages([TF, TF_STATIC]))

    def rate_hz(self, topic: str) -> float:
        """Messages of a topic per second of the recording."""
        count = int(self._connections[topic].msgcount)
        return count / max(float(self._reader.duration) / 1e9, 1e-3)

    def frames(
        self, topics: BagTopics, slop_s: float
    ) -> Iterator[tuple[int, RgbdFrame | FrameError | CameraInfoError]]:
        """(stamp in ns, frame or why it cannot be used) of paired images in the order of their stamps.

        Depth that is not aligned to colour is reprojected by its camera_info and the recording's tf.
        Raises: FrameError if not a single image has a partner, or the file ends too early.
        """
        pairs = 0
        decode = _Decoder(self, topics)
        for triple in self._triples(topics, slop_s):
            pairs += 1
            try:
                yield triple.stamp_ns, decode(triple)
            except (FrameError, CameraInfoError) as error:
                yield triple.stamp_ns, error
        if not pairs:
            raise FrameError(self._why_none(topics, slop_s))

    def _triples(self, topics: BagTopics, slop_s: float) -> Iterator[Triple]:
        """An image is paired when all three topics have passed its stamp: no nearer partner can come then."""
        role = {topics.image: "image", topics.depth: "depth", topics.camera_info: "camera_info"}
        self._pairer = pairer = FramePairer(int(slop_s * 1e9), BUFFER)
        newest: dict[str, int] = {}
        waiting: list[int] = []
        for topic, msg in self.messages(list(role)):
            stamp = stamp_to_ns(msg.header.stamp)
            if newest and stamp < max(newest.values()) - int(1e9):  # the clock or the bag started over
                yield from self._judge(waiting)
                newest.clear()
            pairer.add(role[topic], Sample(stamp, stamp, msg))
            newest[role[topic]] = max(stamp, newest.get(role[topic], 0))
            if topic == topics.image:
                waiting.append(stamp)
            if len(newest) == len(TOPICS) or len(waiting) == BUFFER:
                passed = min(newest.values()) if len(newest) == len(TOPICS) else 0
                ready = [s for s in waiting if s <= passed] or waiting[: len(waiting) - BUFFER + 1]
                waiting = [s for s in waiting if s not in ready]
                yield from self._judge(ready)
        yield from self._judge(waiting)

    def _judge(self, stamps: list[int]) -> Iterator[Triple]:
        for stamp in sorted(stamps):
            triple = self._pairer.at(stamp)
            if triple is None:
                self.unpaired += 1
            else:
                yield triple
        stamps.clear()

    def _why_none(self, topics: BagTopics, slop_s: float) -> str:
        problem = self._pairer.problem(0, float("inf"))
        names = {"image": topics.image, "depth": topics.depth, "camera_info": topics.camera_info}
        topic, what = problem or ("image", "has no partner")
        return (
            f"No image of {self.name} could be paired: {names[topic]} {what}; choose other topics, "
            f"or raise --slop ({slop_s:g} s)."
        )

    def _named(self, topic: str, types: tuple[str, ...], kinds: dict[str, str]) -> str:
        if not topic:
            return ""
        if topic not in self._connections:
            raise FrameError(f"{self.name} has no topic {topic!r}; {_listed(kinds)}")
        if (found := self._connections[topic].msgtype) not in types:
            raise FrameError(f"{topic} holds {found}, not {' or '.join(types)}; {_listed(kinds)}")
        return topic

    def _only(self, kind: str, kinds: dict[str, str], option: str) -> str:
        """The one topic of a kind; one that exists both raw and compressed counts once."""
        found = [t for t, k in kinds.items() if k == kind]
        found = [t for t in found if _base(t) == t or _base(t) not in found]
        if kind == "depth" and len(found) > 1:
            found = [t for t in found if "aligned" in t] or found
        if not found:
            fix = "record one that is aligned to colour" if kind == "depth" else "record the colour camera"
            raise FrameError(f"{self.name} holds no {kind} image; {fix}. {_listed(kinds)}")
        if len(found) > 1:
            raise FrameError(
                f"{self.name} holds {len(found)} {kind} topics; choose by {option}. {_listed(kinds)}"
            )
        return found[0]

    def _info_of(self, image: str) -> str:
        infos = [str(t) for t, c in self._connections.items() if c.msgtype == INFO]
        beside = _beside(image)
        if beside in infos:
            return beside
        if len(infos) != 1:
            known = ", ".join(infos) or "none"
            raise FrameError(
                f"{self.name} has no {beside}, and {len(infos)} other camera_info ({known}); choose by "
                "--camera-info, or record it."
            )
        return infos[0]


@contextmanager
def open_bag(path: str | Path) -> Iterator[Bag]:
    """Open a recording: its folder, a file in it, or a lone MCAP. Raises: FrameError saying what is wrong."""
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    folder = Path(path).expanduser()
    described = (folder.parent / "metadata.yaml").is_file()
    if folder.is_file() and folder.suffix in (".db3", ".mcap") and (described or folder.suffix == ".db3"):
        folder = folder.parent
    if folder.suffix == ".bag":
        raise FrameError(
            f"{path} is a bag of ROS 1; convert it first: rosbags-convert --src {path} --dst FOLDER"
        )
    if not folder.exists():
        raise FrameError(f"There is no bag {path}; give the folder that ros2 bag record made.")
    if folder.suffix != ".mcap" and not (folder / "metadata.yaml").is_file():  # a lone MCAP describes itself
        raise FrameError(f"{folder} has no metadata.yaml; ros2 bag reindex {folder} makes one.")
    # Bags before Iron do not hold the definitions of their messages; those of the camera have not changed.
    with readable(str(path)):
        reader = AnyReader([folder], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
    try:
        yield Bag(reader, str(path))
    finally:
        reader.close()


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn the many exceptions of the storage libraries into FrameError."""
    try:
        yield
    except (FrameError, GeneratorExit, KeyboardInterrupt):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FrameError(
            f"{name} cannot be read ({type(error).__name__}: {reason[:160]}); it is truncated or damaged: "
            "ros2 bag reindex, or mcap recover, may save what is there."
        ) from error


class _Decoder:
    """Makes frames of triples; reads camera_info and tf of an unaligned depth camera once, when needed."""

    def __init__(self, bag: Bag, topics: BagTopics) -> None:
        self._bag, self._topics = bag, topics
        self._rectified, self._depth_rectified = is_rectified(topics.image), is_rectified(topics.depth)

    def __call__(self, triple: Triple) -> RgbdFrame:
        image: Any = triple.image.payload
        depth: Any = triple.depth.payload
        info: Any = triple.camera_info.payload
        size = (int(info.width), int(info.height)) if info.width and info.height else None
        rgb = decode_compressed_color(image, size) if _is_compressed(image) else decode_color(image)
        metres = decode_compressed_depth(depth) if _is_compressed(depth) else decode_depth(depth)
        camera = None
        if is_apart(rgb, image.header, metres, depth.header, self._topics.depth):
            try:
                camera = self._depth_camera(metres, image.header, depth.header)
            except (CameraInfoError, TransformError) as error:
                raise refusal(rgb, image.header, metres, depth.header, str(error)) from error
        return make_frame(rgb, metres, info, image.header, self._rectified, self._depth_rectified, camera)

    def _depth_camera(self, depth: Depth, color: Any, header: Any) -> DepthCamera:
        T = self._bag.transforms.lookup(color.frame_id, header.frame_id, stamp_to_ns(color.stamp))
        return depth_camera(self._depth_info, depth, T, self._depth_rectified)

    @cached_property
    def _depth_info(self) -> Any:
        for _, msg in self._bag.messages([self._topics.depth_camera_info]):
            return msg
        raise CameraInfoError(
            f"The recording has no {_beside(self._topics.depth)}; record it, or name --depth-camera-info."
        )


def _beside(topic: str) -> str:
    """The camera_info that belongs to an image by the convention of image_transport."""
    return _base(topic).rsplit("/", 1)[0] + "/camera_info"


def _is_compressed(msg: Any) -> bool:
    return hasattr(msg, "format")


def _is_depth(msg: Any) -> bool:
    """By its encoding (REP-118), or the transport's name in the format."""
    if _is_compressed(msg):
        return "compresseddepth" in str(msg.format).lower()
    return msg.encoding in ("16UC1", "32FC1", "mono16")


def _base(topic: str) -> str:
    """An image_transport topic without the transport's suffix."""
    return topic.removesuffix("/compressed").removesuffix("/compressedDepth")


def _listed(kinds: dict[str, str]) -> str:
    if not kinds:
        return "There is no image topic in it."
    return "Image topics: " + ", ".join(f"{topic} ({kind})" for topic, kind in kinds.items()) + "."
