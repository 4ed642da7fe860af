"""``python -m molmo_ros.tools.soak --minutes 60 --plot soak.png``.

Wanted: no request is lost, memory grows by less than 2 % after warm-up, and the last tenth is as fast as the
first.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from molmo_ros.errors import MolmoRosError
from molmo_ros.tools.soak.log import failures, plot, summary
from molmo_ros.tools.soak.run import KINDS, soak


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 if a request was lost, the node died, or memory or time grew beyond the bound."""
    parser = argparse.ArgumentParser(prog="python -m molmo_ros.tools.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="default 2")
    parser.add_argument("--seed", type=int, default=0, help="of faults and queries (0)")
    parser.add_argument(
        "--fault-every", type=float, default=10.0, metavar="S", help="seconds between faults (10)"
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw times, memory and processor time")
    parser.add_argument("--log", type=Path, metavar="JSON", help="write all that was measured")
    options = parser.parse_args(arguments)
    try:
        log, alive = soak(options.minutes, options.seed, options.fault_every)
    except MolmoRosError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    if options.log:
        options.log.write_text(json.dumps(asdict(log)))
    if options.plot:
        plot(log, options.plot, KINDS)
    result = summary(log, KINDS)
    told = failures(result) + ([] if alive else ["the node or its camera has ended"])
    print(json.dumps({"alive": alive, **result, "failures": told}))
    return int(bool(told))


if __name__ == "__main__":
    raise SystemExit(main())
