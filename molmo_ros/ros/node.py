"""The node ``molmo``: a lifecycle node that brings itself up unless told not to.

configure loads the model, activate answers, deactivate stops answering, cleanup frees the model. The services
exist from the first moment and say in words why they do not answer yet.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from molmo_ros.errors import CancelledError, MolmoRosError
from molmo_ros.ros import diagnostics
from molmo_ros.ros.camera import CameraInput
from molmo_ros.ros.config import NodeConfig
from molmo_ros.ros.context import NodeContext
from molmo_ros.ros.entry import run_node
from molmo_ros.ros.guard import Guard, limits_of
from molmo_ros.ros.interrupt import ending
from molmo_ros.ros.log import forward_logging
from molmo_ros.ros.memory import TRIM_PERIOD_S, trim_heap
from molmo_ros.ros.model_host import ModelHost
from molmo_ros.ros.outputs import Outputs
from molmo_ros.ros.params import NODE_OPTIONS, declare
from molmo_ros.ros.saving import Saving
from molmo_ros.ros.services import Interfaces
from molmo_ros.ros.tf import TransformLookup
from molmo_ros.ros.track import Tracking
from molmo_ros.ros.worker import Worker
from molmo_ros.transforms import UPRIGHT_FRAMES

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
PATIENCE_S = 5.0  # cameras may start a little later than the node
PROBLEM_S = 30.0  # a camera that does not deliver is named in the log this often
CANCEL_S = 5.0  # how long the running query may take to notice
SPARE_THREADS = 6  # of the executor: lifecycle, parameters, diagnostics, tf, refusals
UP_UNKNOWN = (
    "Which way is up is not known: for a camera that looks level, a wall may be taken for the table. "
    "Set target_frame to a frame of the robot whose z points up, and name it in upright_frames if it has "
    f"none of the usual names ({', '.join(UPRIGHT_FRAMES)})."
)


class MolmoNode(LifecycleNode):  # type: ignore[misc]  # rclpy is untyped in the older distributions
    """Joins the parts; the work is in the files beside this one."""

    def __init__(self, **options: Any) -> None:
        super().__init__("molmo", **NODE_OPTIONS, **options)
        _set_transitions_apart(self)
        self.config = declare(self, NodeConfig, self._set_config, self._is_configured)
        self._asked_from = 0.0
        self._autostart: threading.Thread | None = None
        self.model = ModelHost(self.get_fully_qualified_name())
        self.model.prepare(self.config)
        self.worker = Worker(self.config.queue_size)
        self.latency = diagnostics.LatencyLog()
        self._transforms = TransformLookup(self)
        self.cameras = {
            name: CameraInput(self, name, self.config, self._transforms)
            for name in self.config.cameras or ("",)
        }
        self.guard = Guard(self, self.config, self._transforms)
        self.saving = Saving(self, lambda: self.config)
        context = NodeContext(
            node=self,
            config=lambda: self.config,
            cameras=self.cameras,
            model=self.model,
            worker=self.worker,
            transforms=self._transforms,
            outputs=Outputs(self, lambda: self.config),
            guard=self.guard,
            latency=self.latency,
            saving=self.saving,
        )
        self.interfaces = Interfaces(context)
        self.tracking = Tracking(context)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(
            self.config.diagnostics_period_s, self._diagnose, callback_group=MutuallyExclusiveCallbackGroup()
        )
        self.create_timer(TRIM_PERIOD_S, trim_heap, callback_group=MutuallyExclusiveCallbackGroup())

    def start(self) -> None:
        """Configure and activate in a separate thread, if ``autostart`` says so."""
        if self.config.autostart:
            self.model.starting = True
            self._autostart = threading.Thread(target=self._bring_up, name="autostart")
            self._autostart.start()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model. Slow, so the executor must have other threads."""
        started = time.perf_counter()
        try:
            if self.config.target_frame:
                self._transforms.start(self.config.target_frame)
            self.model.load(self.config)
        except CancelledError:
            return FAILURE  # the node shuts down
        except Exception as error:
            text = str(error) if isinstance(error, MolmoRosError) else traceback.format_exc()
            self.get_logger().error(f"configure failed: {text}")
            return FAILURE
        seconds = time.perf_counter() - started
        model = "the model" if self.config.runtime == "remote" else self.config.checkpoint
        if self.model.away:
            self.get_logger().warning(f"{self.model.away} It is asked again with each query.")
        else:
            self.get_logger().info(f"loaded {model} ({self.model.running}) in {seconds:.1f} s")
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to answer."""
        result = super().on_activate(state)
        self.model.active = result == SUCCESS
        self._asked_from = time.monotonic()
        self.get_logger().info(self.ready_line())
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop answering; running queries are cancelled."""
        self.model.active = False
        self.worker.cancel_all("The node was deactivated.", CANCEL_S)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        self.model.unload()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything."""
        self.model.active = False
        self.worker.cancel_all("The node is shutting down.", CANCEL_S)
        self.model.unload()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, from where configure may be tried again."""
        self.worker.cancel_all("The node has failed and starts over.", CANCEL_S)
        self.model.unload()
        return SUCCESS

    def destroy_node(self) -> None:
        """End the tracks, the worker and the loading, then the node.

        All threads are joined: one that is in native code when Python ends aborts the process.
        """
        self.tracking.close()
        self.worker.close()
        self.saving.close()
        self.model.stop_loading()
        if self._autostart is not None:
            self._autostart.join()
        self.model.unload()
        super().destroy_node()

    def ready_line(self) -> str:
        """What the log says once the node answers: its services, whether frames arrive, and whether it does
        not know which way is up.
        """
        ground, ask = (self.resolve_service_name(name) for name in ("~/ground", "~/ask"))
        cameras = "; ".join(camera.describe() for camera in self.cameras.values())
        line = f"ready: ask on {ground}, {ask} or {self.resolve_topic_name('~/query')}. Camera: {cameras}"
        return line if self.config.target_frame in self.config.upright_frames else f"{line} {UP_UNKNOWN}"

    def _bring_up(self) -> None:
        try:
            if self.trigger_configure() == SUCCESS:
                self.trigger_activate()
        except Exception as error:  # a manager was faster, or the context is gone
            self.get_logger().warning(f"autostart stopped: {error}")
        finally:
            self.model.starting = False

    def _is_configured(self) -> bool:
        return bool(self._state_machine.current_state[1] != "unconfigured")

    def _set_config(self, config: NodeConfig) -> None:
        """Raises: ParameterError for an invalid box."""
        limits_of(config)
        self.config = config

    def _diagnose(self) -> None:
        name, now_ns = self.get_name(), time.time_ns()
        for camera in self.cameras.values():
            camera.collect()
        problems = [text for camera in self.cameras.values() if (text := camera.problem(self.config))]
        if problems and self.model.active and time.monotonic() > self._asked_from + PATIENCE_S:
            self.get_logger().warning(" ".join(problems), throttle_duration_sec=PROBLEM_S)
        statuses = [
            diagnostics.node_status(name, self.model, self.worker, self.config),
            *(diagnostics.camera_status(name, c, self.config, now_ns) for c in self.cameras.values()),
            diagnostics.latency_status(name, self.latency),
        ]
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics.diagnostic_array(stamp, statuses))


def _set_transitions_apart(node: LifecycleNode) -> None:
    """Give change_state its own callback group, and let it answer "no" where rclpy would raise.

    In the default group a configure that loads a model would hold up get_state and the parameters; and an
    exception for a transition that is not allowed now would end the executor.
    """
    for service in node.services:
        if service.srv_name.endswith("/change_state"):
            service.callback = _refusing(service.callback, node)
            service.callback_group = MutuallyExclusiveCallbackGroup()
            service.callback_group.add_entity(service)


def _refusing(callback: Callable[[Any, Any], Any], node: LifecycleNode) -> Callable[[Any, Any], Any]:
    def change_state(request: Any, response: Any) -> Any:
        try:
            return callback(request, response)
        except Exception as error:
            node.get_logger().warning(f"transition {request.transition.id} refused: {error}")
            response.success = False
            return response

    return change_state


def spin(node: LifecycleNode, threads: int) -> None:
    """Spin until shutdown; an exception in one callback is logged and the node lives on."""
    executor = MultiThreadedExecutor(num_threads=threads)
    executor.add_node(node)
    while rclpy.ok():
        try:
            executor.spin()
        except ExternalShutdownException:
            break
        except Exception as error:
            if not rclpy.ok():  # Ctrl-C while the executor built its wait set
                break
            text = "".join(traceback.format_exception(error))
            node.get_logger().error(f"a callback failed: {text}")
    executor.shutdown(timeout_sec=1.0)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; exit status 2 if a parameter is wrong."""
    logging.getLogger().setLevel(logging.INFO)
    return run_node("molmo", MolmoNode, _run, args)


def _run(node: MolmoNode) -> None:
    """Bring the node up and spin it until shutdown."""
    forward_logging(node)
    node.start()
    spin(node, node.config.queue_size + node.config.max_tracks + SPARE_THREADS)


if __name__ == "__main__":
    raise SystemExit(ending(main()))
