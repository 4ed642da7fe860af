"""An agent finds a thing, then follows it for a moment: python examples/agent.py "the red mug" """

import os
import sys

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters


async def main(query: str) -> None:
    # With the variables of this shell, which say where ROS and the workspace are.
    server = StdioServerParameters(command="molmo-ros", args=["mcp"], env=dict(os.environ))
    async with Client(server) as agent:

        async def call(tool: str, **arguments: object) -> dict[str, object]:
            told = (await agent.call_tool(tool, arguments)).structured_content or {}
            print(f"{tool}({', '.join(f'{k}={v!r}' for k, v in arguments.items())})\n  -> {told}")
            return told

        await call("ground", query=query)
        await call("ground", query="")
        started = await call("track_start", query=query, duration_s=20.0)
        await anyio.sleep(3.0)
        await call("track_state", track=started["track"])
        await call("track_cancel", track=started["track"])


if len(sys.argv) != 2:
    sys.exit(__doc__)
anyio.run(main, sys.argv[1])
