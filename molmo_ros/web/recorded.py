"""The web view of recorded frames, without ROS: the pipeline of this process answers.

One thread does everything with the recording and the model; requests wait for it in a queue.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from molmo_ros.datatypes import Grounding, ObjectSegment, RgbdFrame
from molmo_ros.draw import annotate
from molmo_ros.errors import FrameError, ParameterError
from molmo_ros.pipeline import Grounder
from molmo_ros.recording.reel import Reel, Shot
from molmo_ros.recording.replay import Replay
from molmo_ros.web.hub import Hub
from molmo_ros.web.source import Reply
from molmo_ros.web.targets import answer_message, gripper_message, outcome
from molmo_ros.web.wire import cloud_message, image_message, scene_message

MOVES = ("first", "previous", "next")


class RecordedSource:
    """`web.source.Source` of a reel of frames."""

    live = False

    def __init__(self, reel: Reel, grounder: Grounder) -> None:
        self.name = reel.name
        self._reel, self._grounder = reel, grounder
        self._hub = Hub()
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue()
        self._shot: Shot | None = None
        self._playing = False
        self._replay: Replay | None = None
        threading.Thread(target=self._run, name="recording", daemon=True).start()

    def open(self, hub: Hub) -> None:
        """A page is open: show where we are."""
        self._hub = hub
        self._do(self._show_all)

    def close(self) -> None:
        """No page is open: stop playing."""
        self._playing = False

    def ground(self, query: str) -> Reply:
        """Find it in the frame that is shown."""
        return self._do(lambda: self._ground(query, track=False))

    def track(self, query: str) -> Reply:
        """Find it, and follow it through the next frames."""
        return self._do(lambda: self._ground(query, track=True))

    def ask(self, question: str) -> Reply:
        """A free question about the frame that is shown."""
        return self._do(lambda: self._ask(question))

    def cancel(self) -> Reply:
        """Follow no more."""
        return self._do(self._cancel)

    def save(self) -> Reply:
        """The frames are files already."""
        raise ParameterError("These frames are saved already; ~/save is a service of the node.")

    def show(self, camera: str) -> Reply:
        """A recording has one camera."""
        raise ParameterError("This recording has one camera; choose another by --image and --depth.")

    def move(self, to: str) -> Reply:
        """Another frame, or play and pause."""
        if to in ("play", "pause"):
            self._playing = to == "play"
            return self._do(self._tell_reel)
        if to not in MOVES:
            raise ParameterError(f"There is no move {to[:32]!r}; give first, previous, next, play or pause.")
        return self._do(lambda: self._move(to))

    def _do(self, work: Callable[[], Reply | None]) -> Reply:
        """Let the thread do it. Raises: what the work raises."""
        result: Future[Reply | None] = Future()

        def job() -> None:
            try:
                result.set_result(work())
            except Exception as error:
                result.set_exception(error)

        self._jobs.put(job)
        return result.result() or Reply(True, "")

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            wait = max(0.0, due - time.monotonic()) if self._playing else None
            try:
                self._jobs.get(timeout=wait)()
            except queue.Empty:
                due = time.monotonic() + 1 / max(self._reel.rate_hz, 0.1)
                self._play_on()

    def _play_on(self) -> None:
        try:
            self._move("next")
        except Exception as error:  # a recording that breaks off
            self._playing = False
            self._hub.tell("status", {"level": "error", "text": str(error)})
            self._tell_reel()

    def _move(self, to: str) -> None:
        if to != "next":
            self._cancel()
        self._shot = self._reel.move(to)
        self._show(self._shot)
        if self._replay is not None and self._shot.frame is not None:
            found = self._replay.follow(self._shot.frame)
            self._tell_answer(self._shot.frame, found, following=True)

    def _show_all(self) -> None:
        info = {key: str(value) for key, value in self._grounder.model.info.items()}
        self._hub.tell("gripper", gripper_message(self._grounder.gripper))
        model = {"name": "model", "level": "ok", "message": info.get("runtime", ""), "values": info}
        self._hub.tell("diagnostics", {"statuses": [model], "gone": False})
        self._hub.tell("track", {"running": self._replay is not None, "stage": "following", "query": ""})
        if self._shot is None:
            self._move("first")
        elif self._shot is not None:
            self._show(self._shot)

    def _show(self, shot: Shot) -> None:
        self._tell_reel()
        if shot.frame is None:
            self._hub.tell("status", {"level": "warn", "text": shot.error})
            return
        self._hub.tell("status", {"level": "ok", "text": "ready"})
        self._hub.put("live", image_message("live", shot.frame.rgb, shot.frame.stamp_ns))
        self._hub.put("scene", scene_message(shot.frame, None, shot.frame.frame_id))

    def _tell_reel(self) -> None:
        shot = self._shot
        text, query = ("", "") if shot is None else (shot.name, shot.query)
        self._hub.tell("reel", {"text": text, "query": query, "playing": self._playing})

    def _frame(self) -> RgbdFrame:
        if self._shot is None or self._shot.frame is None:
            raise FrameError(
                "This frame cannot be used; go to another one." if self._shot else "No frame yet."
            )
        return self._shot.frame

    def _ground(self, query: str, track: bool) -> Reply:
        frame, started = self._frame(), time.perf_counter()
        mode = "track" if track else "find"
        self._cancel()
        replay = Replay(self._grounder, query, 1, track)
        try:
            found = replay.ask(frame)
        except Exception as error:
            self._hub.note(query, mode, str(error), False)
            raise
        ms = (time.perf_counter() - started) * 1e3
        self._hub.note(query, mode, outcome(found.targets), True, ms)
        stages = {**found.stages_ms, "total": ms}
        self._hub.tell("latency", {"stages": {name: [value, value] for name, value in stages.items()}})
        self._tell_answer(frame, found, following=False)
        if track and found.targets:
            self._replay = replay
            self._hub.tell("track", {"running": True, "query": query, "stage": "following", "age": 0.0})
        return Reply(True, outcome(found.targets), answer=found.answer.text)

    def _ask(self, question: str) -> Reply:
        started = time.perf_counter()
        answer = self._grounder.ask(self._frame().rgb, question)
        self._hub.note(question, "ask", answer.text, True, (time.perf_counter() - started) * 1e3)
        return Reply(True, "", answer=answer.text)

    def _cancel(self) -> Reply:
        self._replay = None
        self._hub.tell("track", {"running": False})
        return Reply(True, "stopped")

    def _tell_answer(self, frame: RgbdFrame, found: Grounding, following: bool) -> None:
        targets, stamp_ns = found.targets, frame.stamp_ns
        content = answer_message(found.query, found.answer.text, targets, frame.frame_id, stamp_ns)
        pixels = [[target.point.x, target.point.y] for target in targets]
        self._hub.tell("answer", {**content, "pixels": pixels, "following": following})
        shown = annotate(frame.rgb, targets or found.answer.points, found.query)
        self._hub.put("answer_image", image_message("answer_image", shown, stamp_ns))
        segments = [target.segment for target in targets if target.segment is not None]
        self._hub.put("object", _objects(segments, frame))


def _objects(segments: list[ObjectSegment], frame: RgbdFrame) -> bytes:
    points: Any = np.concatenate([s.cloud_m for s in segments] or [np.zeros((0, 3))])
    colors: Any = np.concatenate([s.colors for s in segments] or [np.zeros((0, 3), np.uint8)])
    return cloud_message("object", points, colors, None, frame.frame_id, frame.stamp_ns)
