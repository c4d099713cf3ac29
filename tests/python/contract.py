"""A client of the tunnel contract, made from `tunnel.proto` alone: the package `grpcio-tools` makes the messages and the
stub when this starts. It speaks to whatever offers the contract: a gateway's own port, or a connector's gRPC face."""

import asyncio
import base64
import importlib
import pathlib
import sys
import tempfile
import threading

import grpc
from grpc_tools import protoc
from report import OPTIONS, commands, report

CODE = tempfile.TemporaryDirectory()
PROTOS = pathlib.Path(OPTIONS["protos"])
INCLUDES = pathlib.Path(protoc.__file__).parent / "_proto"


def make(name):
    arguments = ["", f"-I{PROTOS}", f"-I{INCLUDES}", f"--python_out={CODE.name}", f"--grpc_python_out={CODE.name}"]
    if protoc.main([*arguments, str(PROTOS / name)]) != 0:
        raise SystemExit(f"{name} cannot be compiled")


for name in ("tunnel.proto", "google_rpc.proto"):
    make(name)
sys.path.insert(0, CODE.name)
pb = importlib.import_module("tunnel_pb2")
stubs = importlib.import_module("tunnel_pb2_grpc")
rpc = importlib.import_module("google_rpc_pb2")


def metadata(command):
    token = command.get("token", OPTIONS.get("token"))
    pairs = [("authorization", f"Bearer {token}")] if token else []
    return pairs + [tuple(pair) for pair in command.get("metadata", [])]


def status(code, details, trailing):
    """The call's status, with the reason and the details of the contract."""
    told = {"code": code.name, "details": details}
    for name, value in trailing or ():
        if name == "grpc-status-details-bin":
            detail = rpc.Status.FromString(value).details[0]
            info = rpc.ErrorInfo()
            detail.Unpack(info)
            told |= {"reason": info.reason, "domain": info.domain, "reached": info.metadata["reached_target"]}
    return told


async def outcome(call):
    return status(await call.code(), await call.details(), await call.trailing_metadata())


def http(command):
    fields = [pb.Field(name=name, value=value.encode()) for name, value in command.get("fields", [])]
    return pb.Open(
        http=pb.HttpRequest(
            method=command.get("method", "GET"),
            scheme="http",
            host=command["host"],
            port=command["port"],
            path=command.get("path", "/"),
            fields=fields,
            no_body="body" not in command,
        )
    )


def opening(command):
    match command["kind"]:
        case "http":
            return http(command)
        case "tcp":
            return pb.Open(tcp=pb.TcpTarget(host=command["host"], port=command["port"]))
        case "unix":
            return pb.Open(unix=pb.UnixTarget(name=command["name"]))


def requests(command, ended):
    """What is sent on one stream; a stream that is held stays open for writing until it has ended."""
    yield pb.ForwardRequest(open=opening(command))
    body = base64.b64decode(command.get("body", ""))
    for at in range(0, len(body), 60000):
        yield pb.ForwardRequest(data=body[at : at + 60000])
    if not command.get("hold"):
        yield pb.ForwardRequest(fin=pb.Fin())
    ended.wait()


def exchange(stub, command):
    """Opens a stream, sends the body and `fin`, and tells all that comes back."""
    ended = threading.Event()
    call = stub.Forward(requests(command, ended), metadata=metadata(command), timeout=command.get("timeout"))
    seen = {"head": None, "connected": None, "fin": False, "trailers": {}}
    data = b""
    try:
        for answer in call:
            match answer.WhichOneof("part"):
                case "head":
                    seen["head"] = answer.head.status
                    report("head", status=answer.head.status)
                case "connected":
                    seen["connected"] = answer.connected.address
                    report("connected")
                case "data":
                    data += answer.data
                case "fin":
                    seen["fin"] = True
                    seen["trailers"] = {field.name: field.value.decode() for field in answer.fin.trailers}
    except grpc.RpcError:
        pass
    ended.set()
    told = status(call.code(), call.details(), call.trailing_metadata())
    report("forward", data=base64.b64encode(data).decode(), **seen, **told)


async def forward(_, command):
    """By the blocking API, on a thread: `grpc.aio` calls a stream `INTERNAL` when it has ended, with whatever status,
    before its client is through with writing (a refusal, an early response)."""
    await asyncio.to_thread(exchange, BLOCKING, command)


async def cancel(stub, command):
    """Opens a connection and gives the call up."""
    call = stub.Forward(metadata=metadata(command))
    await call.write(pb.ForwardRequest(open=opening(command)))
    await call.read()
    call.cancel()
    report("cancelled", code=(await call.code()).name)


async def describe(stub, command):
    call = stub.Describe(pb.DescribeRequest(), metadata=metadata(command), timeout=command.get("timeout"))
    try:
        answer = await call
        report("describe", cluster=answer.cluster, actor=answer.actor, features=list(answer.features), code="OK")
    except grpc.aio.AioRpcError:
        report("describe", **await outcome(call))


async def watch(stub, command):
    call = stub.Watch(pb.WatchRequest(), metadata=metadata(command), timeout=command.get("timeout"))
    try:
        event = await call.read()
        report("event", kind=event.WhichOneof("event"), cluster=event.state.cluster)
        if await call.read() is grpc.aio.EOF:
            report("watched")
    except grpc.aio.AioRpcError:
        pass
    report("watch", **await outcome(call))


def channel(kind):
    if "ca" not in OPTIONS:
        return kind.insecure_channel(OPTIONS["target"])
    roots = pathlib.Path(OPTIONS["ca"]).read_bytes()
    return kind.secure_channel(OPTIONS["target"], grpc.ssl_channel_credentials(roots))


BLOCKING = stubs.TunnelStub(channel(grpc))


async def main():
    async with channel(grpc.aio) as open_channel:
        stub = stubs.TunnelStub(open_channel)
        report("ready")
        async for command in commands():
            await globals()[command["do"]](stub, command)


asyncio.run(main())
CODE.cleanup()
