"""~/ground, ~/ask and ~/query: check the request, queue it, wait, fill the response. Nothing is raised."""

from __future__ import annotations

import threading
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from std_msgs.msg import String

from molmo_ros.camera.conversions import stamp_to_ns
from molmo_ros.checkpoint.query import parse_query, parse_question
from molmo_ros.errors import MolmoRosError, NotReadyError, ParameterError, QueryError
from molmo_ros.msg import GraspTargetArray
from molmo_ros.perception.rectify import raw_point
from molmo_ros.ros.answering import Answering, AskQuery, GroundQuery
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.context import REQUEST_QOS, NodeContext
from molmo_ros.ros.messages import point_message
from molmo_ros.ros.worker import Job
from molmo_ros.srv import Ask, Ground

MAX_TIMEOUT_S = 600.0


class Interfaces:
    """The node's inputs: two services and a topic."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._answering = Answering(context)
        node = context.node
        self._logger = node.get_logger()
        # Each waiting call holds a thread of the executor; the queue bounds how many there can be.
        group = ReentrantCallbackGroup()
        node.create_service(Ground, "~/ground", self.on_ground, qos_profile=REQUEST_QOS, callback_group=group)
        node.create_service(Ask, "~/ask", self.on_ask, qos_profile=REQUEST_QOS, callback_group=group)
        node.create_subscription(String, "~/query", self.on_query, REQUEST_QOS, callback_group=group)

    def on_ground(self, request: Any, response: Any) -> Any:
        """srv/Ground."""
        try:
            self._context.model.grounder()  # a node that is not ready says so first
            answer = self._submit_ground(self._ground_query(request)).result()
            response.success, response.answer, response.targets = True, answer.answer, answer.targets
            response.message = f"{len(answer.targets)} found" if answer.targets else "not there"
        except Exception as error:
            self._fail(response, error)
        return response

    def on_ask(self, request: Any, response: Any) -> Any:
        """srv/Ask."""
        try:
            config = self._context.config()
            self._context.model.grounder()
            query = AskQuery(
                question=parse_question(request.prompt, config.max_query_chars),
                camera=self._context.camera(request.camera),
                stamp_ns=stamp_to_ns(request.stamp),
                max_tokens=int(request.max_tokens) or config.max_tokens,
                timeout_s=_timeout(request.timeout_s, config),
            )
            frame, answer = self._context.worker.submit(
                lambda job: self._answering.ask(job, query, config),
                query.timeout_s,
                client=query.question.text,
            ).result()
            response.success, response.answer = True, answer.text
            points = [raw_point(point, frame.lens) for point in answer.points]
            response.points = [point_message(p, frame.frame_id, frame.stamp_ns) for p in points]
        except Exception as error:
            self._fail(response, error)
        return response

    def on_query(self, msg: Any) -> None:
        """std_msgs/String: the answer is published on the topics, a failure goes to the log and the
        diagnostics."""
        try:
            self._context.model.grounder()
            job = self._submit_ground(self._ground_query(Ground.Request(query=msg.data)))
        except Exception as error:
            self._note(error)
            return
        threading.Thread(target=self._watch, args=(job,), daemon=True).start()

    def _watch(self, job: Job[GraspTargetArray]) -> None:
        try:
            job.result()
        except Exception as error:
            self._note(error)

    def _submit_ground(self, query: GroundQuery) -> Job[GraspTargetArray]:
        config = self._context.config()
        return self._context.worker.submit(
            lambda job: self._answering.ground(job, query, config), query.timeout_s, client=query.query.text
        )

    def _ground_query(self, request: Any) -> GroundQuery:
        config = self._context.config()
        return GroundQuery(
            query=parse_query(request.query, config.max_query_chars),
            camera=self._context.camera(request.camera),
            stamp_ns=stamp_to_ns(request.stamp),
            target_frame=request.target_frame or config.target_frame,
            max_targets=int(request.max_targets) or config.max_targets or None,
            grasp=bool(request.grasp),
            timeout_s=_timeout(request.timeout_s, config),
        )

    def _fail(self, response: Any, error: Exception) -> None:
        response.success = False
        response.code, response.message = self._note(error)

    def _note(self, error: Exception) -> tuple[str, str]:
        """Log a failure; (code, message) for the caller."""
        code, text = self._context.describe_error(error, "a query")
        if isinstance(error, (QueryError, NotReadyError)):
            self._logger.info(f"a query was refused ({code}): {text}", throttle_duration_sec=1.0)
            return code, text
        if isinstance(error, MolmoRosError):
            self._logger.warning(f"a query failed ({code}): {text}")
        self._context.latency.add_failure(f"{code}: {text}")
        return code, text


def _timeout(seconds: float, config: NodeConfig) -> float:
    """The time for a request; 0 is the default. Raises: ParameterError if it is negative, NaN or too long."""
    if seconds == 0.0:
        return config.timeout_s
    if not 0.0 < seconds <= MAX_TIMEOUT_S:
        raise ParameterError(f"timeout_s is {seconds:g}; give 0 (default) to {MAX_TIMEOUT_S:g} s.")
    return seconds
