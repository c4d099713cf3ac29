"""What both scripts share: events as JSON lines on standard output, commands as JSON lines on standard input."""

import asyncio
import hashlib
import json
import ssl
import sys

OPTIONS = json.loads(sys.argv[1])

# Longest text that is shown whole; of anything longer, its digest tells.
SHOWN = 200


def report(message, **fields):
    print(json.dumps({"fields": {"message": message, **fields}}), flush=True)


def payload(data):
    """A payload by type, length and SHA-256."""
    raw = data.encode() if isinstance(data, str) else data
    seen = {
        "type": "text" if isinstance(data, str) else "binary",
        "length": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }
    if isinstance(data, str) and len(raw) <= SHOWN:
        seen["text"] = data
    return seen


def trust():
    """The test's CA and nobody else."""
    return ssl.create_default_context(cafile=OPTIONS["ca"])


async def commands():
    """Each command; ends with the input, so that no script outlives its test."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)
