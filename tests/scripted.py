"""A host on this machine that follows a script, for what `kumi worker` does: TLS and frames, without the core.

It believes every proof: the core's own tests are about those.
"""

import hashlib
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from kumi import serial

DATA = Path(__file__).parent.parent / "crates/kumi-net/tests/data"
CODE = "kumi-1-" + "5a" * 32
MODULE = (sys.executable, "-m", "kumi")
SECONDS = 30.0  # far more than any step takes


def fingerprint() -> str:
    """That of the host's certificate, which authorities know as node7.example."""
    first = (DATA / "chain.pem").read_text().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----"
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()


@contextmanager
def kumi(*arguments: str, command: Sequence[Any] = MODULE, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The command `kumi`, which is ended with the block."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([*command, *arguments], text=True, **(pipes | options)) as process:
        try:
            yield process
        finally:
            process.kill()


class Host:
    """Listens; `accept` is one conversation. A context manager that closes both."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(SECONDS)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(DATA / "chain.pem", DATA / "key.pem")
        self._stream: ssl.SSLSocket | None = None
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"kumi://{self.address}/{fingerprint()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        if self._stream is not None:
            self._stream.close()

    def accept(self) -> None:
        """Waits for an agent, and hears its first two messages."""
        connection, _ = self._listener.accept()
        connection.settimeout(SECONDS)
        self._stream = self._context.wrap_socket(connection, server_side=True)
        assert [self.next()[0], self.next()[0]] == [129, 150]  # Hello, Prove

    def admit(self) -> None:
        """The same, and lets it in."""
        self.accept()
        self.admitted = True
        self._say(20, struct.pack("<Q32sQQ", 7, bytes(32), 30_000, 30_000))
        self._say(1, _text("crew-1") + struct.pack("<BB", 31, 0))

    def refuse(self, reason: str) -> None:
        self._say(2, _text(reason))

    def run(self, lease: int, function: Callable[..., Any], *args: Any) -> None:
        """Sends a function and a call of it."""
        self._say(3, struct.pack("<Q", lease) + _payload(serial.dumps_function(function)))
        head = struct.pack("<QQHQI?Q?", lease, lease, lease, lease, 1, False, 0, True)
        self._say(5, head + _payload(serial.dumps_call(args, {}, function)))

    def interrupt(self, lease: int) -> None:
        self._say(7, struct.pack("<Q", lease))

    def stop(self) -> None:
        """Tells the worker to leave, and hears of its end."""
        self._say(9, b"\x03")
        self.bury()

    def bury(self) -> None:
        """Hears of the worker's end, and says so."""
        while (kind := self.next()[0]) != 153:
            assert kind in {129, 152}  # the worker's Hello, Ack
        self._say(22, struct.pack("<Q", self.heard))

    heard = 0
    admitted = False

    def answer(self) -> tuple[int, bool, bytes]:
        """Lease, success and payload of the next task that is done."""
        while (message := self.next())[0] != 130:
            assert message[0] in {129, 152}
        lease, success, _, _, notes = struct.unpack_from("<Q?QQ?", message[1])
        rest = message[1][8 + 1 + 16 + 1 :]
        if notes:
            rest = rest[9:] if rest[0] else rest[1:]  # the peak
            rest = rest[2 + int.from_bytes(rest[:2], "little") :]  # warnings
        return lease, success, rest[8:]

    def next(self) -> tuple[int, bytes]:
        """The next message: its kind, and its fields."""
        length, kind = struct.unpack("<IB", self._read(5))
        fields = self._read(length - 1)
        self.heard += kind in {129, 130, 153} and self.admitted
        return kind, fields

    def _read(self, count: int) -> bytes:
        assert self._stream is not None
        data = b""
        while len(data) < count:
            more = self._stream.recv(count - len(data))
            assert more, "the agent has closed the connection"
            data += more
        return data

    def _say(self, kind: int, fields: bytes) -> None:
        assert self._stream is not None
        self._stream.sendall(struct.pack("<IB", len(fields) + 1, kind) + fields)


def _text(text: str) -> bytes:
    return struct.pack("<H", len(text.encode())) + text.encode()


def _payload(payload: Any) -> bytes:
    assert isinstance(payload, bytes)
    return struct.pack("<Q", len(payload)) + payload
