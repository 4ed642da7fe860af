"""From an RGB-D frame and a query to grasp targets, without ROS.

1. Check the frame and parse the query (``perception.camera_info``, ``checkpoint.query``).
2. Ask the model: points in the image, with confidence (``answer``).
3. For each point (``target``):
   a. lift: its depth, position and covariance (``perception.depth``, ``perception.lift``);
   b. segment: the object around it and the plane that it stands on (``perception.segment``);
   c. complete the unseen side, and plan a grasp (``perception.complete``, ``grasp.planner``).
4. Transform the targets into the frame that was asked for, and sort them best first.

A point that fails in 3 is a target too, with its status and the reason.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from molmo_ros.answer.model import Model
from molmo_ros.answer_format.points import is_denial
from molmo_ros.checkpoint.query import Query, parse_query, parse_question
from molmo_ros.datatypes import (
    Answer,
    Array,
    GraspTarget,
    Grounding,
    Image,
    Progress,
    RgbdFrame,
    ShouldStop,
    TargetStatus,
)
from molmo_ros.errors import AnswerError
from molmo_ros.grasp.gripper import Gripper
from molmo_ros.grasp.planner import GraspPlanner, plan_grasps
from molmo_ros.perception.camera_info import check_frame
from molmo_ros.perception.find_object import Segmenter, check_segmenter
from molmo_ros.perception.segmenters import AUTO
from molmo_ros.target import find_target
from molmo_ros.transforms import UPRIGHT_FRAMES, check_transform, transform_target

if TYPE_CHECKING:
    from molmo_ros.runtimes.remote.remote import RemoteOptions

log = logging.getLogger(__name__)

MAX_ANSWER_TOKENS = 192


class Grounder:
    """Molmo, and what turns its points into targets. Not thread-safe: one query at a time.

    planner and segmenter may be replaced (docs/other_planners.md). segmenter: "auto", "learned",
    "geometry", or (frame, point) -> mask (H,W) of the object (`perception.find_object`).
    """

    def __init__(
        self,
        model: Model,
        gripper: Gripper,
        max_tilt_deg: float = 180.0,
        segmenter: Segmenter | str = AUTO,
        upright_frames: Collection[str] = UPRIGHT_FRAMES,
    ) -> None:
        self.model, self.gripper = model, gripper
        self.planner: GraspPlanner = partial(plan_grasps, max_tilt_deg=max_tilt_deg)
        self._own_planner = self.planner
        self.segmenter = check_segmenter(segmenter) if isinstance(segmenter, str) else segmenter
        self.upright_frames = upright_frames

    @staticmethod
    def load(
        checkpoint: str | Path = "tiny",
        runtime: str = "auto",
        gripper: str | Path = "franka_hand",
        progress: Progress | None = None,
        *,
        precision: str = "auto",
        allow_download: bool = False,
        max_crops: int | None = None,
        max_tilt_deg: float = 180.0,
        segmenter: Segmenter | str = AUTO,
        upright_frames: Collection[str] = UPRIGHT_FRAMES,
        remote: RemoteOptions | None = None,
    ) -> Grounder:
        """Load a model and a gripper.

        Args: checkpoint, a folder with the official files, a cached hub id, or "tiny" (built in); gripper, a
        preset or a YAML file; progress, called with a stage and 0..1; precision, of the weights: fp32, fp16,
        bf16, fp8, int8, int8_dynamic, int4, or "auto"; allow_download, fetch a hub id not in the cache;
        max_crops, high-resolution crops of an image if other than the checkpoint's number; max_tilt_deg, how
        far grasps may lean from straight down on what the object stands on; segmenter, what finds the mask of
        an object (`perception.find_object`); upright_frames, target frames whose z points up, which tells a
        table from a wall: with any other, the support is found without that hint; remote, the server of
        runtime "remote", which then has the checkpoint.
        Raises: CheckpointError, RuntimeUnavailableError, ParameterError, ServerError.
        """
        from molmo_ros.answer.molmo import Molmo

        hand = Gripper.load(gripper)
        if runtime == "remote":
            from molmo_ros.runtimes.remote.remote import RemoteMolmo, RemoteOptions

            served = RemoteMolmo.load(remote or RemoteOptions(), progress)
            return Grounder(served, hand, max_tilt_deg, segmenter, upright_frames)
        model = Molmo.load(
            str(checkpoint),
            runtime,
            progress,
            precision=precision,
            allow_download=allow_download,
            max_crops=max_crops,
        )
        return Grounder(model, hand, max_tilt_deg, segmenter, upright_frames)

    def warm_up(self) -> None:
        """Segment and plan on synthetic frames, so that the first query does not wait for one-time work."""
        from molmo_ros.warm_up import warm_up

        warm_up(self.gripper, self.planner, self.segmenter)

    def close(self) -> None:
        """Free the model's memory."""
        self.model.close()

    def point(
        self,
        rgb: Image,
        query: str | Query,
        *,
        max_points: int | None = None,
        exact: bool = False,
        previous: Answer | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Answer:
        """Find what the query names in rgb (H,W,3) uint8; no points means that it is not there.

        The model stops as soon as it has given the coordinates; points carry the noun of the query as label,
        unless exact, which gives all of the model's own text. previous: the answer to the same query on the
        previous frame, which makes this one faster.
        Raises: QueryError, FrameError, AnswerError, CancelledError.
        """
        query = parse_query(query)
        answer = self.model.point(
            rgb,
            query.prompt,
            label=query.label,
            max_points=max_points,
            exact=exact,
            previous=previous,
            max_new_tokens=MAX_ANSWER_TOKENS,
            should_stop=should_stop,
        )
        if len(answer.token_ids) >= MAX_ANSWER_TOKENS:
            log.warning(
                "The answer was cut off after %d points, and there may be more of %r; narrow the query.",
                len(answer.points),
                query.text,
            )
        if not answer.points and not is_denial(answer.text):  # that would look like "not there"
            raise AnswerError(
                f"The model names no place in the image, and does not say that nothing is there either: "
                f"{answer.text[:120]!r}; ask in other words, or check the checkpoint and its precision."
            )
        return replace(answer, points=tuple(replace(p, label=p.label or query.label) for p in answer.points))

    def ask(
        self,
        rgb: Image,
        question: str | Query,
        max_tokens: int = MAX_ANSWER_TOKENS,
        should_stop: ShouldStop | None = None,
    ) -> Answer:
        """Answer a free question about rgb (H,W,3) uint8. Raises: as `point`."""
        prompt = parse_question(question).prompt
        return self.model.answer(rgb, prompt, max_new_tokens=max_tokens, should_stop=should_stop)

    def locate(
        self,
        frame: RgbdFrame,
        query: str | Query,
        *,
        T_target_camera: Array | None = None,
        target_frame: str = "",
        max_targets: int | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Grounding:
        """Find what the query names, in 3D: targets with position and covariance, without grasps.

        Args: as `grasp`. Raises: as `point`, and CameraInfoError.
        """
        return self._ground(
            frame, query, T_target_camera, target_frame, max_targets, should_stop, grasp=False
        )

    def grasp(
        self,
        frame: RgbdFrame,
        query: str | Query,
        *,
        T_target_camera: Array | None = None,
        target_frame: str = "",
        max_targets: int | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Grounding:
        """Find what the query names and how to grasp it, best target first.

        A point that cannot be lifted or grasped is returned nevertheless, with its status and the reason.

        Args: T_target_camera (4,4), the camera's optical frame in target_frame at the stamp of the frame;
        without it targets stay in the optical frame. max_targets: return at most this many of the best; None:
        all.
        Raises: as `point`, and CameraInfoError.
        """
        return self._ground(frame, query, T_target_camera, target_frame, max_targets, should_stop, grasp=True)

    def _ground(
        self,
        frame: RgbdFrame,
        query: str | Query,
        T_target_camera: Array | None,
        target_frame: str,
        max_targets: int | None,
        should_stop: ShouldStop | None,
        grasp: bool,
    ) -> Grounding:
        # 1. Check.
        query = parse_query(query)
        check_frame(frame)
        T = None if T_target_camera is None else check_transform(T_target_camera)
        # 2. Ask.
        answer = self.point(frame.rgb, query, should_stop=should_stop)
        stages = dict(answer.stages_ms)
        up = T[2, :3] if T is not None and target_frame in self.upright_frames else None
        # 3. Lift, segment, plan: for all points, since the model names them from left to right.
        targets = []
        for point in answer.points:
            target = find_target(
                frame,
                point,
                self.gripper,
                up,
                planner=self.planner,
                segmenter=self.segmenter,
                grasp=grasp,
                calibrate=self.planner is self._own_planner,  # another planner's quality is its own
                stages=stages,
                should_stop=should_stop,
            )
            targets.append(target if T is None else transform_target(target, T, target_frame))
        # 4. Sort.
        best_first = sorted(targets, key=rank)
        return Grounding(query.text, answer, tuple(best_first[:max_targets]), stages)


def rank(target: GraspTarget) -> tuple[bool, float]:
    """The key that sorts targets best first.

    Those that can be grasped before the rest; then by confidence, where it is known, times grasp quality.
    """
    quality = 1.0 if target.grasp is None else target.grasp.quality
    sure = 1.0 if math.isnan(target.point.confidence) else target.point.confidence
    return target.status is not TargetStatus.OK, -sure * quality
