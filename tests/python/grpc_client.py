"""A gRPC client by the package `grpcio`: makes the calls that it is told to, and tells what came of each."""

import asyncio

import grpc
from report import OPTIONS, commands, report


def stub(channel, shape, method):
    make = {"uu": channel.unary_unary, "us": channel.unary_stream, "su": channel.stream_unary, "ss": channel.stream_stream}
    return make[shape](f"/test.Echo/{method}")


def metadata():
    token = OPTIONS.get("token")
    return [("authorization", f"Bearer {token}")] if token else []


async def status(call):
    trailers = {name: str(value) for name, value in (await call.trailing_metadata() or ())}
    initial = {name: str(value) for name, value in (await call.initial_metadata() or ())}
    return {"code": (await call.code()).name, "details": await call.details(), "trailers": trailers, "initial": initial}


async def unary(channel, command):
    extra = [("x-plain", "p"), ("x-data-bin", b"\x01\xfe")]
    request = command["text"].encode() if "text" in command else b"x" * command["length"]
    call = stub(channel, "uu", command["method"])(
        request, metadata=metadata() + extra, timeout=command.get("timeout"), wait_for_ready=False
    )
    try:
        answer = await call
        same = answer == request
    except grpc.aio.AioRpcError:
        same = False
    report("unary", same=same, **await status(call))


async def server_stream(channel, command):
    call = stub(channel, "us", "ServerStream")(b"%d" % command["count"], metadata=metadata())
    answers = [answer async for answer in call]
    right = answers == [b"message %d" % index for index in range(command["count"])]
    report("server_stream", right=right, **await status(call))


async def client_stream(channel, command):
    async def requests():
        for _ in range(command["count"]):
            yield b"y" * command["length"]

    call = stub(channel, "su", "ClientStream")(requests(), metadata=metadata())
    report("client_stream", total=int(await call), **await status(call))


async def bidi(channel, command):
    """Each message waits for the echo of the one before, so that nothing may be held back on the way."""
    call = stub(channel, "ss", "Bidi")(metadata=metadata())
    right = True
    for index in range(command["count"]):
        await call.write(b"%d" % index)
        right = right and await call.read() == b"echo %d" % index
    await call.done_writing()
    end = await call.read()
    over = await call.read()
    report("bidi", right=right, end=end.decode(), over=over is grpc.aio.EOF, **await status(call))


async def cancel(channel, command):
    """Cancels in the middle of an answer."""
    call = stub(channel, "us", "Endless")(b"", metadata=metadata())
    await call.read()
    call.cancel()
    report("cancelled", code=(await call.code()).name)


async def hang(channel, command):
    """Reads until the call breaks."""
    call = stub(channel, "us", "Endless")(b"", metadata=metadata())
    await call.read()
    report("hanging")
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass
    report("broke", **await status(call))


async def main():
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(OPTIONS["target"], options=options) as channel:
        report("ready")
        async for command in commands():
            await globals()[command["do"]](channel, command)


asyncio.run(main())
