"""Every error a user can meet.

Each message names the thing, its value and how to fix it; each class has a stable ``code`` that the
ROS interfaces report, so that a client can react without parsing text.
"""

from __future__ import annotations


class MolmoRosError(Exception):
    """Base of all errors raised on purpose by this package."""

    code = "ERROR"


class QueryError(MolmoRosError):
    """The text query cannot be used: empty, too long, or nothing left after cleaning."""

    code = "BAD_QUERY"


class FrameError(MolmoRosError):
    """The camera data cannot be used: encoding, size, step, stamp, or a silent topic."""

    code = "BAD_FRAME"


class CameraInfoError(MolmoRosError):
    """The camera intrinsics cannot be used."""

    code = "BAD_CAMERA_INFO"


class CheckpointError(MolmoRosError):
    """The checkpoint folder is missing, incomplete, or of an unknown kind."""

    code = "BAD_CHECKPOINT"


class RuntimeUnavailableError(MolmoRosError):
    """The chosen runtime is not installed or has no device here."""

    code = "NO_RUNTIME"


class ServerError(MolmoRosError):
    """The server of the runtime "remote" is unreachable, refuses, or does not answer in its own protocol.

    retriable: asking again may help; retry_after_s: but not earlier, according to the server.
    """

    code = "SERVER"

    def __init__(self, message: str, *, retriable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retriable, self.retry_after_s = retriable, retry_after_s


class EngineError(MolmoRosError):
    """An engine is missing, incomplete or changed."""

    code = "BAD_ENGINE"


class EngineMismatchError(EngineError):
    """An engine is for another GPU, runtime, checkpoint or precision."""

    code = "ENGINE_MISMATCH"


class EngineBuildError(MolmoRosError):
    """An engine could not be built: memory, disk, or an operator that the compiler refuses."""

    code = "BUILD_FAILED"


class ParameterError(MolmoRosError):
    """A parameter is unknown or its value is outside its range."""

    code = "BAD_PARAMETER"


class NotReadyError(MolmoRosError):
    """The node does not answer yet, or no longer: loading, inactive, shutting down."""

    code = "NOT_READY"


class AnswerError(MolmoRosError):
    """The model's answer is not in the format its generation declares."""

    code = "BAD_ANSWER"


class DepthError(MolmoRosError):
    """There is no usable depth at or around a pixel: ``code`` is NO_DEPTH or OUT_OF_RANGE."""

    def __init__(self, message: str, code: str = "NO_DEPTH") -> None:
        super().__init__(message)
        self.code = code


class SegmentError(MolmoRosError):
    """No object could be separated from its surroundings at a point: ``code`` is NO_OBJECT or AMBIGUOUS."""

    def __init__(self, message: str, code: str = "NO_OBJECT") -> None:
        super().__init__(message)
        self.code = code


class GraspError(MolmoRosError):
    """No grasp passes: ``code`` is TOO_WIDE, COLLISION, AMBIGUOUS or UNSEEN."""

    def __init__(self, message: str, code: str = "COLLISION") -> None:
        super().__init__(message)
        self.code = code


class TransformError(MolmoRosError):
    """The pose of the camera in the target frame is not known at the stamp of the image."""

    code = "NO_TRANSFORM"


class PolicyError(MolmoRosError):
    """The policy refuses what was asked for, or wants a person to be asked first (``asks``).

    ``silent``: the judge gave no opinion in time, and silence refuses.
    """

    code = "REFUSED_BY_POLICY"

    def __init__(self, message: str, *, asks: bool = False, silent: bool = False) -> None:
        super().__init__(message)
        self.code = "JUDGE_SILENT" if silent else "ASK_BY_POLICY" if asks else type(self).code


class NotPermittedError(MolmoRosError):
    """An agent asks for a tool or a camera that its permissions do not include."""

    code = "NOT_PERMITTED"


class BusyError(MolmoRosError):
    """The queue of queries is full."""

    code = "BUSY"


class LostError(MolmoRosError):
    """What was to be followed was never found, or has been out of sight for too long."""

    code = "LOST"


class CancelledError(MolmoRosError):
    """The caller gave up, or its time ran out, before the answer was complete."""

    code = "CANCELLED"
