"""A WebSocket service in the cluster, by the package `websockets`: echoes, and tells what it sees. It also serves the page
that it is asked for, as the pages of applications with WebSockets are served."""

import asyncio
import http
import pathlib

import websockets
from report import OPTIONS, commands, payload, report
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.http11 import Response


def page(connection, request):
    if "Upgrade" in request.headers or "page" not in OPTIONS:
        if request.path == "/refused":
            return connection.respond(http.HTTPStatus.FORBIDDEN, "not here\n")
        return None
    text = pathlib.Path(OPTIONS["page"]).read_bytes()
    return Response(200, "OK", Headers([("Content-Type", "text/html"), ("Content-Length", str(len(text)))]), text)


async def echo(socket):
    report("open", path=socket.request.path, origin=socket.request.headers.get("Origin"), protocol=socket.subprotocol or "")
    try:
        async for message in socket:
            report("message", **payload(message))
            await socket.send(message)
    except websockets.ConnectionClosed:
        pass
    report("close", code=socket.close_code, reason=socket.close_reason)


async def main():
    async with serve(echo, "127.0.0.1", 0, subprotocols=["p1", "p2"], process_request=page, max_size=None) as server:
        host, port = server.sockets[0].getsockname()
        report("listening", what="websocket", address=f"{host}:{port}")
        async for _ in commands():
            pass


asyncio.run(main())
