"""A wire between two network namespaces that delays every packet: for kernels without netem.

    wire.py NAMESPACE-A NAMESPACE-B ONE-WAY-DELAY-MS

Makes a TUN device called `wire` in each, says `ready` and carries packets until it is killed. It drops nothing and adds
no limit of its own but the processor's.
"""
import collections
import ctypes
import fcntl
import os
import selectors
import struct
import sys
import time

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x0001 | 0x1000
LIBC = ctypes.CDLL(None, use_errno=True)


def tun(namespace):
    with open(f"/run/netns/{namespace}") as handle:
        if LIBC.setns(handle.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", b"wire", IFF_TUN_NO_PI))
    return device


def main():
    near, far = tun(sys.argv[1]), tun(sys.argv[2])
    delay = float(sys.argv[3]) / 1000
    queues = {near: collections.deque(), far: collections.deque()}
    other = {near: far, far: near}
    selector = selectors.DefaultSelector()
    for device in (near, far):
        selector.register(device, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        due = min((queue[0][0] for queue in queues.values() if queue), default=None)
        wait = None if due is None else max(0, due - now)
        for key, _ in selector.select(wait):
            try:
                # A turn each, so that neither direction waits for the other's burst.
                for _ in range(64):
                    packet = os.read(key.fd, 65536)
                    queues[other[key.fd]].append((time.monotonic() + delay, packet))
            except BlockingIOError:
                pass
        now = time.monotonic()
        for device, queue in queues.items():
            while queue and queue[0][0] <= now:
                try:
                    os.write(device, queue.popleft()[1])
                except OSError:
                    # It is not up yet, and takes nothing.
                    pass


main()
