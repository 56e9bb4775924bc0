"""A network cable between two TAP devices, which the test that holds it can cut, slow down, or make lossy.

Run as a program, as root: `cable.py NEAR FAR` makes the two devices and carries frames between them until its standard
input ends. Each line there is obeyed and answered by a line: `cut`, or `carry DELAY JITTER LOSS`, in seconds and as a
share of frames. Not by netem, which few kernels of virtual machines have.
"""

import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time
from itertools import count

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
FRAME = 65_536
WHOLE = (0.0, 0.0, 0.0)


def tap(name: str) -> int:
    """Makes a TAP device: what is written to the descriptor arrives there, and what is sent there is read."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def main(near: str, far: str) -> None:
    ends = [tap(near), tap(far)]
    others = dict(zip(ends, reversed(ends), strict=True))
    chance, numbers = random.Random(1), count()
    state: tuple[float, float, float] | None = WHOLE
    under_way: list[tuple[float, int, int, bytes]] = []
    print("ready", flush=True)
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        ready, _, _ = select.select([*ends, 0], [], [], wait)
        now = time.monotonic()
        while under_way and under_way[0][0] <= now:
            *_, end, frame = heapq.heappop(under_way)
            deliver(end, frame)
        for end in ready:
            if end == 0:
                words = os.read(0, 1000).decode().split()
                if not words:
                    return
                state = None if words[0] == "cut" else (float(words[1]), float(words[2]), float(words[3]))
                print("done", flush=True)
                continue
            frame = read(end)
            if state is None or chance.random() < state[2]:
                continue
            due = now + state[0] + chance.uniform(-state[1], state[1])
            heapq.heappush(under_way, (due, next(numbers), others[end], frame))


def read(end: int) -> bytes:
    try:
        return os.read(end, FRAME)
    except OSError:  # the device is down
        return b""


def deliver(end: int, frame: bytes) -> None:
    try:
        os.write(end, frame)
    except OSError:  # the device is down
        return


if __name__ == "__main__":
    main(*sys.argv[1:])
