"""A client of the API server's WebSocket streams: opens one, and tells what it is answered and what comes out."""

import asyncio

import websockets
from report import OPTIONS, report, trust

# The first byte of each message says which stream it is of.
CHANNELS = {1: "stdout", 2: "stderr", 3: "status"}


async def main():
    headers = {"Authorization": f"Bearer {OPTIONS['token']}", **OPTIONS.get("headers", {})}
    protocols = OPTIONS.get("protocols", ["v4.channel.k8s.io"])
    try:
        socket = await websockets.connect(
            OPTIONS["url"], ssl=trust(), proxy=None, additional_headers=headers, subprotocols=protocols
        )
    except websockets.InvalidStatus as refusal:
        response = refusal.response
        report("refused", status=response.status_code, body=(response.body or b"").decode())
        return
    report("open", protocol=socket.subprotocol or "")
    async for data in socket:
        if len(data) > 1:
            report(CHANNELS.get(data[0], "other"), text=data[1:].decode())
    report("close", code=socket.close_code)


asyncio.run(main())
