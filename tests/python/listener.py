"""A listener written from the published protocol alone, by the package `websockets`: accepts each WebSocket and echoes,
rejects those whose path asks for it, and answers HTTP requests with what it saw, with a status that is text."""

import asyncio
import json
from urllib.parse import quote, unquote, urlsplit

import websockets
from report import OPTIONS, commands, payload, report, trust


async def dial(address, **more):
    return await websockets.connect(address, ssl=trust(), proxy=None, max_size=None, compression=None, **more)


async def accept(message):
    address = message["address"]
    path = urlsplit(address).path
    report("accept", id=message["id"], path=path, headers=message["connectHeaders"])
    if "/reject/" in path:
        code, reason = path.split("/reject/")[1].split("/")
        try:
            await dial(f"{address}&sb-hc-statusCode={code}&sb-hc-statusDescription={quote(unquote(reason))}")
        except websockets.InvalidStatus as answer:
            report("rejected", status=answer.response.status_code)
        return
    headers = {name.lower(): value for name, value in message["connectHeaders"].items()}
    offered = headers.get("sec-websocket-protocol")
    socket = await dial(address, subprotocols=[offered.split(",")[-1].strip()] if offered else None)
    report("open", protocol=socket.subprotocol or "")
    try:
        async for data in socket:
            report("message", **payload(data))
            await socket.send(data)
    except websockets.ConnectionClosedError:
        pass
    report("close", code=socket.close_code, reason=socket.close_reason)


async def answer(channel, message, body):
    """`channel` is the control channel, or the rendezvous that the relay asked for."""
    seen = json.dumps({"request": {**message, "address": None}, "body": payload(body or b"")}).encode()
    response = {
        "requestId": message["id"],
        "statusCode": "200",
        "responseHeaders": {"Content-Type": "application/json"},
        "body": True,
    }
    report("request", method=message["method"], target=message["requestTarget"])
    await channel.send(json.dumps({"response": response}))
    await channel.send(seen)


async def rendezvous(address):
    async with await dial(address) as channel:
        report("rendezvous")
        message = json.loads(await channel.recv())["request"]
        body = await channel.recv() if message["body"] else None
        await answer(channel, message, body)
        await channel.wait_closed()
        report("rendezvous closed", code=channel.close_code)


async def listen(control, tasks):
    async for text in control:
        message = json.loads(text)
        if "accept" in message:
            tasks.create_task(accept(message["accept"]))
        elif "method" in message.get("request", {}):
            request = message["request"]
            body = await control.recv() if request["body"] else None
            await answer(control, request, body)
        elif "request" in message:
            tasks.create_task(rendezvous(message["request"]["address"]))


async def main():
    # The token in the address, as the published Python sample has it.
    control = await dial(f"{OPTIONS['url']}&sb-hc-token={quote(OPTIONS['token'], safe='')}")
    report("listening")
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(listen(control, tasks))
        async for command in commands():
            if command["do"] == "renew":
                await control.send(json.dumps({"renewToken": {"token": command["token"]}}))
        listening.cancel()


asyncio.run(main())
