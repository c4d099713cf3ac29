"""Python's own server of files, of which no path must leave its folder: `http.server`."""

import asyncio
import functools
import http.server
import threading

from report import OPTIONS, commands, report


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


async def main():
    handler = functools.partial(Quiet, directory=OPTIONS["folder"])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host, port = server.server_address
        report("listening", what="http", address=f"{host}:{port}")
        async for _ in commands():
            pass
        server.shutdown()


asyncio.run(main())
