"""A collector of spans: takes OTLP over HTTP, decodes it with OpenTelemetry's own messages, and tells each span."""

import asyncio
import http.server
import threading

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from report import commands, report

STATUS = {"code": 200}


def value(any_value):
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        report("posted", path=self.path, type=self.headers["Content-Type"], status=STATUS["code"])
        for resource in request.resource_spans if STATUS["code"] == 200 else []:
            service = attributes(resource.resource.attributes)["service.name"]
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                report(
                    "span",
                    service=service,
                    name=span.name,
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    state=span.trace_state,
                    kind=span.kind,
                    nanoseconds=span.end_time_unix_nano - span.start_time_unix_nano,
                    attributes=attributes(span.attributes),
                    failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    why=span.status.message,
                )
        answer = trace_service_pb2.ExportTraceServiceResponse().SerializeToString()
        self.send_response(STATUS["code"])
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


async def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host, port = server.server_address
    report("listening", what="collector", address=f"{host}:{port}")
    async for command in commands():
        STATUS["code"] = command["status"]
        report("changed")
    server.shutdown()


asyncio.run(main())
