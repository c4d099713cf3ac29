"""A sender: one WebSocket by the package `websockets`; sends and closes as it is told."""

import asyncio
import base64

import websockets
from report import OPTIONS, commands, payload, report, trust


async def receive(socket):
    try:
        async for message in socket:
            report("message", **payload(message))
    except websockets.ConnectionClosedError:
        pass
    report("close", code=socket.close_code, reason=socket.close_reason)


async def main():
    try:
        socket = await websockets.connect(
            OPTIONS["url"],
            ssl=trust() if "ca" in OPTIONS else None,
            proxy=None,
            max_size=None,
            subprotocols=OPTIONS.get("protocols"),
            additional_headers=OPTIONS.get("headers"),
        )
    except websockets.InvalidStatus as refused:
        report("refused", status=refused.response.status_code, reason=refused.response.reason_phrase)
        return
    report("open", protocol=socket.subprotocol or "", extensions=len(socket.protocol.extensions))
    receiving = asyncio.create_task(receive(socket))
    async for command in commands():
        match command["do"]:
            case "send" if "bytes" in command:
                await socket.send(base64.b64decode(command["bytes"]))
            case "send":
                await socket.send(command["text"])
            case "fragments":
                await socket.send(base64.b64decode(piece) for piece in command["pieces"])
            case "ping":
                await (await socket.ping())
                report("pong")
            case "close":
                await socket.close(command["code"], command["reason"])
    receiving.cancel()


asyncio.run(main())
