"""Certificates made on the fly."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificate(subject, issuer=None, issuer_key=None):
    """A key and a certificate as PEM, signed by itself or by `issuer`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    signed = builder.sign(issuer_key or key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key, signed, pem, signed.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Certificates:
    """PEM files of an authority, and of a server and a client that it knows; `server` has key and certificate."""

    folder: Path

    def __post_init__(self) -> None:
        ca_key, ca, _, ca_pem = certificate("test CA")
        _, _, server_key, server = certificate("localhost", ca, ca_key)
        _, _, client_key, client = certificate("client", ca, ca_key)
        files = {"ca": ca_pem, "server": server_key + server, "client.key": client_key, "client": client}
        for name, pem in files.items():
            (self.folder / f"{name}.pem").write_bytes(pem)

    def path(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")

    @property
    def tls(self) -> dict[str, str]:
        """A client's `tls` section."""
        return {"ca": self.path("ca"), "certificate": self.path("client"), "key": self.path("client.key")}
