"""The logic of the launch files: a camera's topics, what RViz shows of them, and the Fast DDS profile."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from molmo_ros.errors import ParameterError

TOPICS = ("image", "depth", "camera_info")
OUTPUTS = ("object_points", "markers", "grasp_pose", "annotated")  # of the node, in config/molmo.rviz
WEB_PACKAGES = ("starlette", "uvicorn", "websockets")  # of requirements/web.txt
# If one of these is set, Fast DDS is configured already; a profile would override that.
FASTDDS_SETTINGS = (
    "FASTRTPS_DEFAULT_PROFILES_FILE",
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTDDS_BUILTIN_TRANSPORTS",
    "RMW_FASTRTPS_USE_QOS_FROM_XML",
)


def camera_names(share: Path) -> list[str]:
    """The presets in ``config/cameras``. share: that folder of the package."""
    return sorted(path.stem for path in (share / "config" / "cameras").glob("*.yaml"))


def camera_preset(share: Path, name: str) -> dict[str, str]:
    """Topics, optical frame and driver of a preset. Raises: ParameterError if there is no such preset."""
    if name not in camera_names(share):
        raise ParameterError(f"camera is {name!r}; choose one of {', '.join(camera_names(share))}.")
    preset: dict[str, str] = yaml.safe_load((share / "config" / "cameras" / f"{name}.yaml").read_text())
    return preset


def driver_of(share: Path, image_topic: str) -> str:
    """The command that starts the camera with this colour topic; empty if it is none of the presets'."""
    for name in camera_names(share):
        preset = camera_preset(share, name)
        if image_topic == "/" + preset["image"].lstrip("/"):
            return preset["driver"]
    return ""


def remappings(share: Path, values: Mapping[str, str]) -> list[tuple[str, str]]:
    """From the node's topics to those of the preset or of the launch arguments, compressed ones too."""
    preset = camera_preset(share, values["camera"])
    topics = {topic: values[topic] or preset[topic] for topic in TOPICS}
    pairs = list(topics.items())
    if values["depth_camera_info"]:
        pairs.append(("depth_camera_info", values["depth_camera_info"]))
    suffixes = {"image": "compressed", "depth": "compressedDepth"}
    compressed = [(f"{topic}/{end}", f"{topics[topic]}/{end}") for topic, end in suffixes.items()]
    return [pair for pair in pairs + compressed if pair[0] != pair[1]]


def rviz_remappings(share: Path, values: Mapping[str, str]) -> list[tuple[str, str]]:
    """From the topics in ``config/molmo.rviz`` to those of this node and its camera."""
    namespace = values["namespace"].strip("/")
    prefix = f"/{namespace}" if namespace else ""
    image = values["image"] or camera_preset(share, values["camera"])["image"]
    pairs = [(f"/molmo/{topic}", f"{prefix}/molmo/{topic}") for topic in OUTPUTS]
    pairs.append(("/image", image if image.startswith("/") else f"{prefix}/{image}"))
    return [pair for pair in pairs if pair[0] != pair[1]]


def rviz_frame(share: Path, values: Mapping[str, str]) -> str:
    """The fixed frame: that of the targets if one is given, else the optical frame of the preset."""
    return values["target_frame"] or camera_preset(share, values["camera"])["frame"]


def parameter_file(path: str) -> str:
    """The file with ``~`` expanded. Raises: ParameterError if it is not there: launch would only warn."""
    found = Path(path).expanduser()
    if not found.is_file():
        raise ParameterError(f"params_file is {path!r}, and there is no such file; check the path.")
    return str(found)


def fastdds_profile(share: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that give Fast DDS room for images; none if it is configured, or not in use."""
    other = environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") not in (
        "rmw_fastrtps_cpp",
        "rmw_fastrtps_dynamic_cpp",
    )
    if other or any(environment.get(name) for name in FASTDDS_SETTINGS):
        return {}
    profile = str(share / "config" / "fastdds.xml")
    # Kilted and later read the second name.
    return {"FASTRTPS_DEFAULT_PROFILES_FILE": profile, "FASTDDS_DEFAULT_PROFILES_FILE": profile}


def need_rviz(prefix_of: Any) -> None:
    """Raises: ParameterError with the package's name if rviz2 is missing. prefix_of: ament's function."""
    try:
        prefix_of("rviz2")
    except LookupError as error:
        raise ParameterError(
            "rviz:=true needs rviz2, which is not installed: sudo apt install ros-$ROS_DISTRO-rviz2. Nothing "
            "was started; rviz:=false does without."
        ) from error


def web_arguments(values: Mapping[str, str]) -> list[str]:
    """Of the web view: which node it shows, and where. Raises: ParameterError for an invalid port."""
    namespace, port = values["namespace"].strip("/"), values["web_port"]
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ParameterError(f"web_port is {port!r}; give 0 to 65535.")
    name = f"/{namespace}/molmo" if namespace else "/molmo"
    return ["--node", name, "--host", values["web_host"], "--port", port]


def need_web() -> None:
    """Raises: ParameterError with the command that installs them if the web view's packages are missing."""
    missing = [name for name in WEB_PACKAGES if find_spec(name) is None]
    if missing:
        raise ParameterError(
            f"web:=true needs {', '.join(missing)}, which is not installed: pip install "
            f"{' '.join(WEB_PACKAGES)}. Nothing was started; web:=false does without."
        )
