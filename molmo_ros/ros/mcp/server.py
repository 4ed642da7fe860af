"""The MCP server: tools with descriptions, over standard input and output or local HTTP with a token."""

from __future__ import annotations

import hmac
import json
import logging
from collections.abc import Callable
from io import BytesIO
from typing import Annotated, Any

from mcp.server.mcpserver import Image as Picture
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import CallToolResult, TextContent
from pydantic import Field
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from molmo_ros import __version__
from molmo_ros.ros.mcp.permissions import Permissions
from molmo_ros.ros.mcp.tools import Result, Tools

INSTRUCTIONS = (
    "Find, question and follow things that a robot's camera sees. Results say success, code and message; a "
    "failure's message tells what to do. Zero targets is success: the thing is not there. Targets without "
    "status OK must not be grasped. Nothing here moves the robot."
)
LOCAL = ("127.0.0.1", "localhost", "::1")

# The node itself says which words it takes, with its code; here only what is absurd is cut off.
Query = Annotated[str, Field(max_length=4096, description='a thing in the view, as "the red mug"')]
Question = Annotated[str, Field(max_length=4096)]
Camera = Annotated[str, Field(max_length=64, description="name of the camera; empty: the first one")]
Track = Annotated[str, Field(max_length=64, description="what track_start returned")]


def make_server(tools: Tools) -> MCPServer[Any]:
    """A server with the tools that are permitted; the others are not listed, and refused when called."""
    server: MCPServer[Any] = MCPServer(
        "molmo_ros", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING"
    )

    def ground(query: Query, camera: Camera = "", grasp: bool = True) -> CallToolResult:
        """Find a thing and say where it is in 3D (metres), its size, and how a gripper takes it."""
        return reply(tools.ground(query, camera, grasp))

    def ask(question: Question, camera: Camera = "") -> CallToolResult:
        """Answer a free question about what the camera sees, with points in pixels where they explain it."""
        return reply(tools.ask(question, camera))

    def look(query: Query, camera: Camera = "") -> CallToolResult:
        """Show the camera's picture with the thing marked in it, if it is there."""
        result, picture = tools.look(query, camera)
        told = reply(result)
        if picture is not None:
            told.content.append(Picture(data=_jpeg(picture), format="jpeg").to_image_content())
        return told

    def track_start(
        query: Query,
        camera: Camera = "",
        duration_s: Annotated[float, Field(description="end after so many seconds")] = 30.0,
    ) -> CallToolResult:
        """Begin to follow a thing. Returns a track, for track_state and track_cancel."""
        return reply(tools.track_start(query, camera, duration_s))

    def track_state(track: Track) -> CallToolResult:
        """Say what a track does (waiting, grounding, following, lost, searching, ended), with its targets."""
        return reply(tools.track_state(track))

    def track_cancel(track: Track) -> CallToolResult:
        """End a track."""
        return reply(tools.track_cancel(track))

    offered: dict[str, tuple[Callable[..., CallToolResult], ...]] = {
        "ground": (ground,),
        "ask": (ask,),
        "look": (look,),
        "track": (track_start, track_state, track_cancel),
    }
    for name in tools.permissions.tools:
        for function in offered[name]:
            server.add_tool(function, structured_output=False)
    return server


def reply(result: Result) -> CallToolResult:
    """A result as structured content, and as text for agents that read only that."""
    text = json.dumps(result, ensure_ascii=False)
    return CallToolResult(
        content=[TextContent(type="text", text=text)],
        structured_content=result,
        is_error=not result["success"],
    )


def _jpeg(picture: Any) -> bytes:
    from PIL import Image as PilImage

    buffer = BytesIO()
    PilImage.fromarray(picture).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


class BearerToken:
    """ASGI: lets nothing through without ``Authorization: Bearer TOKEN``."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._wanted = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            if len(given) != 1 or not hmac.compare_digest(given[0], self._wanted):
                error = {
                    "error": "Send the header Authorization: Bearer TOKEN, with the token of this server."
                }
                await JSONResponse(error, status_code=401)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def http_app(server: MCPServer[Any], host: str, port: int, token: str) -> ASGIApp:
    """The server as an ASGI application at /mcp; requests by web pages of other hosts are refused."""
    names = [*LOCAL, host]
    security = TransportSecuritySettings(
        allowed_hosts=[f"{name}:{port}" for name in names],
        allowed_origins=[f"http://{name}:{port}" for name in names],
    )
    return BearerToken(server.streamable_http_app(host=host, transport_security=security), token)


def serve(node: str, permissions: Permissions, http: tuple[str, int, str] | None) -> None:
    """Serve until the client goes away (stdio) or Ctrl-C; http: (host, port, token), or None for stdio."""
    from molmo_ros.ros.mcp.bridge import Bridge

    logging.getLogger("mcp").setLevel(logging.WARNING)
    bridge = Bridge(node, pictures="look" in permissions.tools)
    tools = Tools(bridge, permissions)
    try:
        server = make_server(tools)
        if http is None:
            server.run("stdio")
            return
        import uvicorn

        host, port, token = http
        uvicorn.run(http_app(server, host, port, token), host=host, port=port, log_level="warning")
    finally:
        tools.close()
        bridge.close()
