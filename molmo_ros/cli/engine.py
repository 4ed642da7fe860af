"""``molmo-ros engine``: build, list and check engines, or export the graphs they are compiled from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molmo_ros.cli import quantise
from molmo_ros.cli.options import integer, path
from molmo_ros.cli.output import progress, say
from molmo_ros.errors import ParameterError
from molmo_ros.runtimes.names import PRECISIONS, TENSORRT

if TYPE_CHECKING:
    from molmo_ros.runtimes.engine_store import Manifest

NAME = "engine"
HELP = "compile a checkpoint for a GPU, see which engines there are and whether they fit, or export to ONNX"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = actions.add_parser("build", help="compile; tensorrt_rtx does so on a machine without a GPU too")
    build.add_argument(
        "--recipe",
        type=path,
        metavar="R",
        default="rtx",
        help="orin_nano, agx_orin, thor, rtx, datacenter, cpu, or a YAML file (default rtx)",
    )
    build.add_argument(
        "--sm", type=integer(50, 999), metavar="N", help="compute capability times ten, such as 87"
    )
    build.add_argument("--runtime", choices=TENSORRT, help="compiler, instead of the recipe's")
    build.add_argument(
        "--sequence",
        type=integer(64, 65536),
        metavar="N",
        help="tokens that the cache holds, instead of the recipe's",
    )
    build.add_argument("--force", action="store_true", help="build although memory looks too small")
    export = actions.add_parser("export", help="write the network as ONNX graphs")
    export.add_argument(
        "--for",
        dest="target",
        choices=("gpu", "cpu"),
        default="gpu",
        help="what int8 and int4 are laid out for (default gpu)",
    )
    quantise.add_arguments(actions.add_parser("quantise", help=quantise.HELP))
    actions.add_parser("list", help="the engines in the default place, or below --out")
    check = actions.add_parser("check", help="whether an engine is complete, and fits")
    check.add_argument("folder", type=path, metavar="FOLDER", help="folder of the engine")
    check.add_argument(
        "--sm",
        type=integer(50, 999),
        metavar="N",
        help="compute capability it must fit (default: this GPU's, if any)",
    )
    for action in (build, export, check):
        default = None if action is check else "tiny"
        action.add_argument(
            "--checkpoint", metavar="C", default=default, help="folder, cached hub id, or tiny"
        )
        action.add_argument("--precision", choices=PRECISIONS, help="how the weights are held")
    for action in (build, export, actions.choices["list"]):
        action.add_argument(
            "--out", type=path, metavar="DIR", help="folder (default: below the user's data folder)"
        )
    for action in actions.choices.values():
        for flag in ("--json", "--debug"):
            action.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do what the action says."""
    actions = {"build": _build, "export": _export, "list": _list, "check": _check, "quantise": quantise.run}
    return {"action": args.action, **actions[args.action](args)}


def _build(args: argparse.Namespace) -> dict[str, Any]:
    from molmo_ros.checkpoint.checkpoint import load_checkpoint
    from molmo_ros.tools.build_engine import build_engine
    from molmo_ros.tools.recipes import change, load_recipe

    recipe = change(
        load_recipe(args.recipe), sm=args.sm, runtime=args.runtime, precision=args.precision,
        sequence=args.sequence,
    )  # fmt: skip
    checkpoint = load_checkpoint(args.checkpoint)
    out = Path(args.out) if args.out else None
    if recipe.runtime == "onnx":
        return _cpu_graphs(checkpoint, recipe.precision)
    folder, manifest = build_engine(checkpoint, recipe, out, progress("engine"), force=args.force)
    for part, (kernels, wanted) in manifest.attention.items():
        if kernels < wanted:
            say(f"{part}: {kernels} of {wanted} attentions became one kernel each; the rest is slow.")
    return _facts(folder, manifest)


def _cpu_graphs(checkpoint: Any, precision: str) -> dict[str, Any]:
    from molmo_ros.runtimes.export import cached_export
    from molmo_ros.runtimes.ort import cpu_precision

    folder = cached_export(checkpoint, cpu_precision(checkpoint, precision))
    return {"folder": folder, "runtime": "onnx", "precision": precision}


def _export(args: argparse.Namespace) -> dict[str, Any]:
    from molmo_ros.checkpoint.checkpoint import load_checkpoint
    from molmo_ros.runtimes.engine_store import engine_home
    from molmo_ros.tools.build_engine import export_graphs

    checkpoint = load_checkpoint(args.checkpoint)
    precision = args.precision or ("int4" if args.target == "gpu" else "int8")
    name = f"{checkpoint.folder.name}-{precision}-{args.target}-onnx"
    folder = Path(args.out) if args.out else engine_home() / name
    return _facts(folder, export_graphs(checkpoint, precision, args.target, folder, progress("export")))


def _list(args: argparse.Namespace) -> dict[str, Any]:
    from molmo_ros.errors import EngineError
    from molmo_ros.runtimes.engine_store import engine_home, list_engines

    home = Path(args.out) if args.out else engine_home()
    engines = [
        {"folder": folder, "error": str(found)} if isinstance(found, EngineError) else _facts(folder, found)
        for folder, found in list_engines(home)
    ]
    return {"home": home, "engines": engines}


def _check(args: argparse.Namespace) -> dict[str, Any]:
    from molmo_ros.checkpoint.checkpoint import load_checkpoint
    from molmo_ros.runtimes.engine_store import check_files, check_fits, check_trusted, read_manifest

    folder = Path(args.folder)
    if not folder.is_dir():
        raise ParameterError(f"There is no folder {folder}; molmo-ros engine list names the engines.")
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    check_trusted(folder)
    version, sm = _here(manifest.runtime)
    checkpoint = load_checkpoint(args.checkpoint) if args.checkpoint else None
    check_fits(
        manifest, checkpoint=checkpoint, precision=args.precision or "auto", runtime_version=version,
        runtime=manifest.runtime, sm=args.sm or sm,
    )  # fmt: skip
    compared = {
        "runtime": version is not None,
        "gpu": (args.sm or sm) is not None,
        "checkpoint": checkpoint is not None,
    }
    return {**_facts(folder, manifest), "ok": True, "compared": compared}


def _here(runtime: str) -> tuple[str | None, int | None]:
    """Version of the runtime and SM of the GPU of this machine, each None where there is none."""
    from molmo_ros.errors import RuntimeUnavailableError
    from molmo_ros.runtimes.cuda import device
    from molmo_ros.tools.compile_trt import compiler

    version, sm = None, None
    try:
        version = str(compiler(runtime).__version__) if runtime != "onnx" else None
        sm = device().sm
    except RuntimeUnavailableError as error:
        say(f"not compared: {error}")
    return version, sm


def _facts(folder: Path, manifest: Manifest) -> dict[str, Any]:
    return {
        "folder": folder,
        "checkpoint": manifest.checkpoint,
        "precision": manifest.precision,
        "runtime": manifest.runtime,
        "runtime_version": manifest.runtime_version,
        "sm": manifest.sm,
        "bytes": manifest.bytes,
        "date": manifest.date,
        "attention": manifest.attention,
    }


def text(result: dict[str, Any]) -> str:
    """Return one line for each engine."""
    if result["action"] == "quantise":
        return quantise.text(result)
    if result["action"] != "list":
        return _line(result) + ("\ncomplete and unchanged" if result.get("ok") else "")
    lines = [_line(entry) for entry in result["engines"]]
    return "\n".join(lines or [f"no engines in {result['home']}; molmo-ros engine build makes one"])


def _line(entry: dict[str, Any]) -> str:
    if "error" in entry:
        return f"{entry['folder']}: {entry['error']}"
    device = f"SM{entry['sm']}" if entry.get("sm") else "any device"
    size = f"{entry['bytes'] / 1e6:.1f} MB" if "bytes" in entry else ""
    runtime = f"{entry['runtime']} {entry.get('runtime_version', '')}".rstrip()
    return ", ".join(filter(None, [f"{entry['folder']}: {entry['precision']}", runtime, device, size]))
