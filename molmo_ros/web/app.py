"""The ASGI application: the page's files, and a WebSocket for each page that is open."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from molmo_ros.web.access import Access, Guarded
from molmo_ros.web.hub import Hub
from molmo_ros.web.seat import Seat
from molmo_ros.web.source import Source

PAGE = Path(__file__).parent.parent / "assets" / "web"
MAX_CLIENTS = 16
LINGER_S = 3.0  # a page that is reloaded finds the source still open
FULL = 1013  # "try again later"


class Room:
    """The pages that are open. The source is open while there are any, and LINGER_S longer."""

    def __init__(self, hub: Hub, source: Source) -> None:
        self.hub, self.source = hub, source
        self.threads = ThreadPoolExecutor(3 * MAX_CLIENTS, "request")  # requests wait in them
        self._lock = asyncio.Lock()
        self._open = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def enter(self, client: Seat) -> None:
        """A page is there."""
        self.hub.join(client, client.waker(asyncio.get_running_loop()))
        async with self._lock:
            if not self._open:
                self._open = True
                await asyncio.to_thread(self.source.open, self.hub)

    async def leave(self, client: Seat) -> None:
        """A page is gone."""
        self.hub.leave(client)
        task = asyncio.create_task(self._close_if_empty())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close_if_empty(self) -> None:
        await asyncio.sleep(LINGER_S)
        async with self._lock:
            if self._open and not self.hub.clients:
                self._open = False
                await asyncio.to_thread(self.source.close)
                if self.source.live:
                    self.hub.forget()


def make_app(hub: Hub, source: Source, access: Access) -> ASGIApp:
    """The whole application. Opens and closes the source as pages come and go."""
    room = Room(hub, source)
    hub.tell("hello", {"name": source.name, "live": source.live})

    async def page(_: Request) -> FileResponse:
        return FileResponse(PAGE / "index.html")

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        if hub.clients >= MAX_CLIENTS:
            await websocket.close(FULL, f"{MAX_CLIENTS} pages are open already; close one.")
            return
        client = Seat(websocket, hub, source, room.threads)
        try:
            await room.enter(client)
            await client.serve()
        finally:
            await room.leave(client)

    app = Starlette(
        routes=[
            Route("/", page),
            WebSocketRoute("/ws", socket),
            Mount("/static", StaticFiles(directory=PAGE, follow_symlink=True)),
        ]
    )
    return Guarded(app, access)
