"""Workers on other machines: where they dial in, by which certificate, and what their users are told."""

import os
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from kumi.options import text

ANYWHERE = "0.0.0.0"  # whoever dials in must prove a secret
_UNSPECIFIED = {ANYWHERE, "::"}
_SOMEWHERE = ("192.0.2.1", 9)  # an address that nobody has; nothing is sent to it


@dataclass(frozen=True, slots=True)
class TLS:
    """The certificate that a controller shows to workers on other machines, in place of one that is made for it alone.

    Workers then trust the authorities of their machine, or those in the file of `kumi worker --authorities`, and the
    certificate must be valid for the name by which they reach the controller: `host=`.

    Args:
        certificate: A file of certificates as PEM: the controller's own, then those that vouch for it.
        key: A file with its private key as PEM; None: it is in the same file.
        password: What the key is encrypted by; None: it is not.

    Raises:
        TypeError, ValueError: If an argument is not of the kind that the message names.

    Example:
        >>> tls = kumi.TLS("head.pem", "head.key", password=os.environ["HEAD_KEY"])
        >>> crew = kumi.Controller(None, host="head.example.org", port=7077, tls=tls)
    """

    certificate: str | os.PathLike[str]
    key: str | os.PathLike[str] | None = None
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, value in (("certificate", self.certificate), ("key", self.key)):
            if not isinstance(value, str | os.PathLike) and not (name == "key" and value is None):
                raise TypeError(f"{name} must be the path of a file, not {value!r}")
        text("password", self.password, none=True)

    def read(self) -> tuple[bytes, bytes, str | None]:
        """Certificates, key and password, as `Pool.listen` takes them."""
        certificate = Path(self.certificate).read_bytes()
        return certificate, certificate if self.key is None else Path(self.key).read_bytes(), self.password


def url(host: str, port: int, fingerprint: str | None) -> str:
    """What `kumi worker` dials.

    Args:
        host: As the controller was told.
        port: Where it listens.
        fingerprint: Of its certificate; None: authorities vouch for that.

    Example:
        >>> url("::1", 7077, "ab12")
        'kumi://[::1]:7077/ab12'
    """
    name = public_address() if host in _UNSPECIFIED else host
    place = f"[{name}]" if ":" in name else name
    return f"kumi://{place}:{port}" + ("" if fingerprint is None else f"/{fingerprint}")


def public_address() -> str:
    """The address of this machine that others most likely reach it by."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_SOMEWHERE)
            return str(probe.getsockname()[0])
        except OSError:  # there is no network
            return "127.0.0.1"


def how_to_join(name: str, address: str, code: str, uses: int, hours: float) -> str:
    """What the user of a controller is told who shall start workers by hand.

    The code is a secret, which a log must not have: it is shown to people only.
    """
    secret = (
        f"It asks for this join code, which lets in {uses} of them within {hours:g} hours:\n    {code}\n"
        if is_shown()
        else "It asks for a join code, which is not written here because this is no terminal: `join_code()` of the "
        "controller makes one.\n"
    )
    return (
        f"kumi: controller {name!r} waits for workers. On each machine that is to run one:\n"
        f"    kumi worker {address}\n{secret}"
    )


def is_shown() -> bool:
    """Whether what is written to stderr is read by a person: on a terminal or in a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel") or (sys.stderr is not None and sys.stderr.isatty())
