"""Every setting of the nodes, once: default, unit, range, choices and meaning.

``ros/params.py`` declares these fields as ROS parameters, ``config/*.yaml`` may only override them, and the
launch files pass them on. A field that is ``read_only`` is fixed when the node starts; one that is
``at_configure`` is fixed when the node is configured, and may be set before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from molmo_ros.errors import ParameterError
from molmo_ros.perception.segmenters import SEGMENTERS
from molmo_ros.runtimes.names import PRECISIONS, RUNTIMES
from molmo_ros.transforms import UPRIGHT_FRAMES

T = TypeVar("T", bound="NodeConfig | SimCameraConfig")


@dataclass(frozen=True)
class Spec:
    """What is known about one setting besides its default; bounds are inclusive, in ``unit``."""

    description: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    read_only: bool = False
    at_configure: bool = False

    def limits(self) -> str:
        """The allowed values in words, empty if anything goes."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:g} to {self.high:g} {self.unit}".rstrip()


def _setting(default: Any, description: str, **spec: Any) -> Any:
    return field(default=default, metadata={"spec": Spec(description, **spec)})


@dataclass(frozen=True)
class NodeConfig:
    """Settings of the node ``molmo``."""

    checkpoint: str = _setting(
        "tiny",
        "Model: a folder with the official files, a cached hub id, or 'tiny' (built in).",
        at_configure=True,
    )
    runtime: str = _setting("auto", "What runs the model.", choices=(*RUNTIMES, "remote"), at_configure=True)
    precision: str = _setting(
        "auto",
        "How the weights are held; auto: as the engine, or what suits the CPU.",
        choices=("auto", *PRECISIONS),
        at_configure=True,
    )
    max_crops: int = _setting(
        -1,
        "High-resolution crops of an image: fewer are faster, more show more; -1 is the checkpoint's own.",
        low=-1,
        high=36,
        at_configure=True,
    )
    remote_url: str = _setting(
        "http://localhost:8000/v1",
        "Runtime remote: address of the OpenAI-compatible server that has the model.",
        at_configure=True,
    )
    remote_model: str = _setting(
        "", "Runtime remote: name of the model there; '' is the only one that it has.", at_configure=True
    )
    remote_key_env: str = _setting(
        "MOLMO_ROS_API_KEY",
        "Runtime remote: environment variable with the server's key, if it wants one.",
        at_configure=True,
    )
    remote_timeout_s: float = _setting(
        20.0, "Runtime remote: time for one request.", unit="s", low=0.1, high=600.0, at_configure=True
    )
    remote_retries: int = _setting(
        2, "Runtime remote: how often a request that failed is sent again.", low=0, high=10, at_configure=True
    )
    remote_image: str = _setting(
        "png",
        "Runtime remote: how images are sent; jpeg is a fifth of the size, and not quite the same image.",
        choices=("png", "jpeg"),
        at_configure=True,
    )
    remote_format: str = _setting(
        "auto",
        "Runtime remote: how the model writes points: molmo1 (checkpoints of 2024), molmo2, gemini (JSON of "
        "Gemini Robotics-ER), auto (by its name).",
        choices=("auto", "molmo1", "molmo2", "gemini"),
        at_configure=True,
    )
    allow_download: bool = _setting(
        False, "Fetch a hub id that is not in the cache; gigabytes, at the first start.", at_configure=True
    )
    gripper: str = _setting(
        "franka_hand", "Gripper: the name of a preset in config/grippers, or a YAML file.", at_configure=True
    )
    segmenter: str = _setting(
        "auto",
        "What finds the mask of an object: a network, geometry, or whichever is sure.",
        choices=SEGMENTERS,
        at_configure=True,
    )
    max_tilt_deg: float = _setting(
        180.0,
        "How far the approach of a grasp may lean from straight down, for arms that reach no other way.",
        unit="degrees",
        low=0.0,
        high=180.0,
        at_configure=True,
    )
    autostart: bool = _setting(
        True, "Configure and activate at start; false: wait for a lifecycle manager.", read_only=True
    )
    cameras: tuple[str, ...] = _setting(
        ("",),
        "Namespaces of the cameras, each with image, depth and camera_info; '' is no namespace. "
        "The first one answers where a request names none.",
        read_only=True,
    )
    image_transport: str = _setting(
        "raw",
        "How colour images come: sensor_msgs/Image, or CompressedImage on image/compressed.",
        choices=("raw", "compressed"),
        read_only=True,
    )
    depth_transport: str = _setting(
        "raw",
        "How depth comes: sensor_msgs/Image, or CompressedImage on depth/compressedDepth.",
        choices=("raw", "compressedDepth"),
        read_only=True,
    )
    buffer_frames: int = _setting(
        8, "Messages of each topic that are kept to find a pair among.", low=2, high=100, read_only=True
    )
    sync_slop_s: float = _setting(
        0.02, "Largest difference of the stamps of image, depth and camera_info.", unit="s", low=0.0, high=1.0
    )
    max_frame_age_s: float = _setting(
        1.0, "A frame older than this when the model would start is refused.", unit="s", low=0.01, high=3600.0
    )
    frame_wait_s: float = _setting(
        1.0, "How long a query waits for a usable frame before it fails.", unit="s", low=0.0, high=60.0
    )
    target_frame: str = _setting(
        "", "Frame of the targets where a request names none; '' is the camera's optical frame."
    )
    upright_frames: tuple[str, ...] = _setting(
        UPRIGHT_FRAMES,
        "Frames whose z points up. If target_frame is one of them, a wall is not taken for a table.",
        at_configure=True,
    )
    tf_wait_s: float = _setting(
        0.2, "How long to wait for the transform at the stamp of the image.", unit="s", low=0.0, high=10.0
    )
    timeout_s: float = _setting(
        30.0, "Time for a query where the request gives none.", unit="s", low=0.05, high=600.0
    )
    queue_size: int = _setting(
        4,
        "Queries that may wait while one is answered; more are told 'busy'.",
        low=1,
        high=100,
        read_only=True,
    )
    max_targets: int = _setting(
        0, "Most targets of an answer where the request gives none; 0 is no limit.", low=0, high=1000
    )
    max_query_chars: int = _setting(
        256, "Longest query; longer text is refused.", unit="characters", low=1, high=256
    )
    max_tokens: int = _setting(
        192, "Longest answer to a free prompt where the request gives none.", unit="tokens", low=1, high=4096
    )
    track_rate_hz: float = _setting(
        30.0, "Tracking looks at the camera at most this often.", unit="Hz", low=1.0, high=120.0
    )
    reground_s: float = _setting(
        2.0,
        "While tracking, the model looks again this long after its last answer.",
        unit="s",
        low=0.1,
        high=600.0,
    )
    track_lost_s: float = _setting(
        10.0,
        "Tracking ends if nothing has been seen of the object for so long.",
        unit="s",
        low=0.1,
        high=3600.0,
    )
    max_tracks: int = _setting(
        4, "Goals of ~/track that may run side by side; more are told 'busy'.", low=1, high=16, read_only=True
    )
    workspace: str = _setting(
        "-1.5 -1.5 -1.0 1.5 1.5 2.0",
        "Limit: box in which position, grasp and pregrasp must lie, 'x y z x y z' of its lower and higher "
        "corner in limits_frame; '' is anywhere.",
        unit="m",
    )
    keep_out: tuple[str, ...] = _setting(
        ("",),
        "Limit: boxes that targets, and the way from pregrasp to grasp, must not touch; each as workspace.",
        unit="m",
    )
    limits_frame: str = _setting("", "Limit: frame of workspace and keep_out; '' is that of the targets.")
    max_sigma: float = _setting(
        0.03,
        "Limit: standard deviation of the position along its worst axis; 0 does not ask. Unknown counts as "
        "too large.",
        unit="m",
        low=0.0,
        high=10.0,
    )
    max_target_age_s: float = _setting(
        10.0, "Limit: age of the image when its targets are published.", unit="s", low=0.01, high=3600.0
    )
    min_confidence: float = _setting(
        0.0,
        "Limit: least confidence of the model; 0 does not ask. Unknown counts as too low.",
        low=0.0,
        high=1.0,
    )
    min_quality: float = _setting(
        0.7, "Limit: least quality, the chance that a grasp holds; 0 does not ask.", low=0.0, high=1.0
    )
    limit_targets: int = _setting(
        50, "Limit: targets of one answer that may be used, the best ones; 0 is any number.", low=0, high=1000
    )
    max_pose_rate_hz: float = _setting(
        0.0,
        "Limit: poses on ~/grasp_pose at most this often; 0 is no limit.",
        unit="Hz",
        low=0.0,
        high=1000.0,
    )
    lease_s: float = _setting(
        0.0,
        "Limit: targets may be used only if ~/lease (std_msgs/Empty) came within this time; 0 does not ask.",
        unit="s",
        low=0.0,
        high=600.0,
    )
    policy: str = _setting(
        "",
        "Policy that is asked about every request: home, lab, or a YAML file; '' is none. Advice, not a "
        "safety function.",
        read_only=True,
    )
    policy_people: bool = _setting(
        True,
        "With a policy: ask the model for people, hands and children beside the targets (three questions).",
    )
    policy_near: float = _setting(
        0.4, "With a policy: people so near to a target are beside it.", unit="m", low=0.0, high=10.0
    )
    save_dir: str = _setting(
        "",
        "Folder for frames and answers of queries, as eval objects reads them; '' saves none.",
        read_only=True,
    )
    save_when: str = _setting(
        "failed",
        "With save_dir: which queries are saved; failed: those without a usable target. ~/save always saves.",
        choices=("never", "failed", "all"),
    )
    save_max_count: int = _setting(
        200,
        "Queries in save_dir at most; then nothing is saved any more.",
        low=1,
        high=100000,
        read_only=True,
    )
    save_max_mb: int = _setting(
        1000, "Size of save_dir at most, likewise.", unit="MB", low=1, high=1000000, read_only=True
    )
    judge_url: str = _setting(
        "",
        "Judge: OpenAI-compatible server of a model that is asked about every request and may only tighten "
        "the policy's verdict; '' is none. Advice, not a safety function.",
        read_only=True,
    )
    judge_model: str = _setting("", "Judge: name of the model there.", read_only=True)
    judge_key_env: str = _setting(
        "MOLMO_ROS_JUDGE_KEY", "Judge: environment variable with the server's key.", read_only=True
    )
    judge_form: str = _setting(
        "chat",
        "Judge: chat is told what to write, delphi was trained to write it (arXiv 2110.07574).",
        choices=("chat", "delphi"),
        read_only=True,
    )
    judge_timeout_s: float = _setting(
        2.0,
        "Judge: its opinion must be there within this time.",
        unit="s",
        low=0.05,
        high=60.0,
        read_only=True,
    )
    judge_silence_refuses: bool = _setting(
        True, "Judge: refuse (code JUDGE_SILENT) where it gives no opinion in time.", read_only=True
    )
    judge_discretionary: str = _setting(
        "allow",
        "Judge: verdict on what it calls discretionary.",
        choices=("allow", "ask", "refuse"),
        read_only=True,
    )
    diagnostics_period_s: float = _setting(
        1.0, "Time between two diagnostics messages.", unit="s", low=0.1, high=60.0, read_only=True
    )


@dataclass(frozen=True)
class SimCameraConfig:
    """Settings of the node ``sim_camera``."""

    seed: int = _setting(
        31, "Which scene is shown, 31 has a red mug; set it to show another.", low=0, high=2147483647
    )
    rate: float = _setting(10.0, "Frames per second.", unit="Hz", low=0.1, high=60.0, read_only=True)
    noise: float = _setting(
        1.0, "Depth noise, as a multiple of a real sensor's; 0 is a perfect sensor.", low=0.0, high=5.0
    )
    width: int = _setting(640, "Image width.", unit="px", low=64, high=1920, read_only=True)
    height: int = _setting(480, "Image height.", unit="px", low=48, high=1200, read_only=True)
    frame_id: str = _setting("camera_color_optical_frame", "Optical frame of the images.", read_only=True)


def spec_of(setting: Field[Any]) -> Spec:
    """The Spec of a field of one of the classes above."""
    spec = setting.metadata["spec"]
    assert isinstance(spec, Spec)
    return spec


def check_value(name: str, value: object, spec: Spec) -> None:
    """Raise ParameterError unless the value lies within the limits of its Spec."""
    if spec.choices and value not in spec.choices:
        raise ParameterError(f"{name} is {value!r}; choose {spec.limits()}.")
    if spec.low is None or spec.high is None or isinstance(value, bool):
        return
    if not isinstance(value, (int, float)) or not spec.low <= value <= spec.high:
        raise ParameterError(f"{name} is {value!r}; it must be {spec.limits()}.")


def make_config(kind: type[T], values: Mapping[str, Any]) -> T:
    """A checked config of this kind from the values that differ from the defaults.

    Raises: ParameterError for an unknown name or a value outside its range.
    """
    known = {setting.name: setting for setting in fields(kind)}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ParameterError(f"There is no parameter {name!r}; known: {', '.join(sorted(known))}.")
        check_value(name, value, spec_of(known[name]))
        checked[name] = tuple(value) if isinstance(known[name].default, tuple) else value  # ROS gives lists
    return kind(**checked)
