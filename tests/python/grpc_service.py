"""A gRPC service in the cluster, by the package `grpcio`: the four shapes of calls, on bytes, so that it needs no stubs.
What it notices (deadlines, cancellations, metadata) it tells."""

import asyncio

import grpc
from report import commands, report

# Long enough that only a deadline or a cancellation ends it.
LONG = 600


def noticed(context, method):
    """Tells when the call ends before its answer did."""
    context.add_done_callback(lambda context: report("done", method=method, cancelled=context.cancelled()))


async def unary(request, context):
    metadata = dict(context.invocation_metadata())
    report("unary", length=len(request), plain=metadata.get("x-plain"), binary=str(metadata.get("x-data-bin")))
    # The count of gateways that a request has crossed is the only field of theirs that a service sees.
    ours = any(n.startswith("causeway-") and n != "causeway-hops" for n in metadata)
    report("credentials", authorization=metadata.get("authorization"), ours=ours)
    await context.send_initial_metadata((("x-initial", "i"),))
    context.set_trailing_metadata((("x-trailing", "t"), ("x-trailing-bin", b"\x00\xff")))
    if request == b"fail":
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100 %")
    return request


async def refuse(request, context):
    # Nothing was sent before: the status travels in the answer's head.
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "at once")


async def wait(request, context):
    noticed(context, "Wait")
    report("waiting", remaining=context.time_remaining())
    await asyncio.sleep(LONG)
    return b"late"


async def server_stream(request, context):
    for index in range(int(request)):
        yield b"message %d" % index


async def endless(request, context):
    noticed(context, "Endless")
    while True:
        yield b"tick"
        await asyncio.sleep(0.01)


async def client_stream(requests, context):
    total = 0
    async for request in requests:
        total += len(request)
    # Only the caller's half-close comes here.
    return b"%d" % total


async def bidi(requests, context):
    noticed(context, "Bidi")
    async for request in requests:
        yield b"echo " + request
    yield b"end"


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    "Wait": grpc.unary_unary_rpc_method_handler(wait),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "Endless": grpc.unary_stream_rpc_method_handler(endless),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
}


async def main():
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", HANDLERS)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    report("listening", what="grpc", address=f"127.0.0.1:{port}")
    async for command in commands():
        if command["do"] == "break":
            # Every connection at once, calls in the middle.
            await server.stop(None)
    await server.stop(None)


asyncio.run(main())
