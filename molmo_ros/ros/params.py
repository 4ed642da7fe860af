"""The settings of ``config.py`` as ROS parameters: type, description, range, read-only flag."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from molmo_ros.errors import ParameterError
from molmo_ros.ros.config import NodeConfig, SimCameraConfig, Spec, check_value, make_config, spec_of

# For the constructor of a node whose parameters ``declare`` declares: overrides can be listed then.
NODE_OPTIONS = {"automatically_declare_parameters_from_overrides": True}

C = TypeVar("C", bound="NodeConfig | SimCameraConfig")
# Names that ROS itself sets on any node.
FOREIGN = ("use_sim_time", "start_type_description_service", "qos_overrides.", "diagnostic_updater.")


def descriptor(spec: Spec, default: object) -> ParameterDescriptor:
    """What ``ros2 param describe`` shows."""
    unit = f" [{spec.unit}]" if spec.unit else ""
    when = " Read when the node is configured." if spec.at_configure else ""
    result = ParameterDescriptor(
        description=spec.description + unit + when,
        read_only=spec.read_only,
        additional_constraints=spec.limits(),
    )
    if spec.low is None or spec.high is None:
        return result
    if isinstance(default, int):
        result.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=0)]
    else:
        result.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high, step=0.0)]
    return result


def declare(
    node: Node,
    kind: type[C],
    on_change: Callable[[C], None],
    configured: Callable[[], bool] = lambda: True,
) -> C:
    """Declare every field of a config class on a node and return the config that results.

    The node must have been made with NODE_OPTIONS.
    ``on_change`` is called with the new config whenever parameters are set at run time; ``configured`` says
    whether those that are read when the node is configured are fixed by now.
    Raises: ParameterError for an override that is unknown, of the wrong type or out of range.
    """
    settings = {setting.name: setting for setting in fields(kind)}
    overrides = {name: parameter.value for name, parameter in node.get_parameters_by_prefix("").items()}
    _refuse_unknown(overrides, settings)
    for name, setting in settings.items():
        if name in overrides:
            node.undeclare_parameter(name)  # without description and range so far
        _declare_one(node, name, setting, overrides.get(name))
    config = make_config(kind, {name: node.get_parameter(name).value for name in settings})

    def check(parameters: list[Parameter]) -> SetParametersResult:
        values = {parameter.name: parameter.value for parameter in parameters if parameter.name in settings}
        try:
            current = {name: node.get_parameter(name).value for name in settings}
            changed = make_config(kind, {**current, **values})
            if configured():
                _refuse_fixed(node, settings, {n: v for n, v in values.items() if v != current[n]})
            on_change(changed)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)
    return config


def _declare_one(node: Node, name: str, setting: Field[Any], override: object) -> None:
    spec = spec_of(setting)
    default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
    try:
        node.declare_parameter(name, default, descriptor(spec, default))
    except Exception as error:  # rclpy raises several kinds, all about the override
        raise ParameterError(
            f"Parameter {name} is {override!r}; it must be a {type(default).__name__}"
            f"{', ' if spec.limits() else ''}{spec.limits()} ({error})."
        ) from error
    check_value(name, node.get_parameter(name).value, spec)


def _refuse_fixed(node: Node, settings: dict[str, Field[Any]], changed: dict[str, Any]) -> None:
    for name in changed:
        if spec_of(settings[name]).at_configure:
            raise ParameterError(
                f"{name} is read when the node is configured, which it is already; run: ros2 lifecycle set "
                f"{node.get_fully_qualified_name()} deactivate, then cleanup, and set it again."
            )


def _refuse_unknown(overrides: Mapping[str, object], settings: Mapping[str, Field[Any]]) -> None:
    """rclpy accepts overrides of undeclared parameters; a misspelt one must be reported."""
    unknown = [name for name in overrides if name not in settings and not name.startswith(FOREIGN)]
    if unknown:
        raise ParameterError(f"There is no parameter {unknown[0]!r}; known: {', '.join(sorted(settings))}.")
