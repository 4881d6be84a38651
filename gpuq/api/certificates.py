"""The controller's own certificate authority and server certificate. The only door to `cryptography`.

Clients never look at the server's address: they verify the one fixed name below the one CA whose SHA-256 their token
carries. So addresses may change, and a renewed server certificate changes nothing for anyone.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gpuq.errors import Conflict
from gpuq.protocol import TLS_NAME

_CA_DAYS = 3653  # ten years: replacing it means handing out every token anew
_SERVER_DAYS = 398  # the longest some TLS libraries accept of a server
_RENEW_BELOW = timedelta(days=30)
_BACKDATED = timedelta(days=1)  # a node whose clock is behind must not refuse a certificate made just now


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of a controller's home: ca is public; certificate and key are what the server shows and proves."""

    ca: Path
    ca_key: Path
    certificate: Path
    key: Path

    def ca_pem(self) -> str:
        return self.ca.read_text("ascii")

    def ca_sha256(self) -> str:
        """SHA-256 of the CA certificate's DER form, in hex: what every token carries."""
        return hashlib.sha256(_load(self.ca).public_bytes(serialization.Encoding.DER)).hexdigest()


def ensure_certificates(home: Path, now: float) -> Certificates:
    """The certificates of this home, made where missing; the server's is renewed when under 30 days are left.

    `now` is wall seconds. A CA whose key is gone is left alone while its server certificate lasts; after that
    nothing can renew it, and the file that is missing is named by the error raised (FileNotFoundError).
    """
    files = Certificates(home / "ca.pem", home / "ca.key", home / "server.pem", home / "server.key")
    at = datetime.fromtimestamp(now, timezone.utc)
    if not files.ca.exists():
        _make_ca(files, at)
        files.certificate.unlink(missing_ok=True)  # one of an earlier CA would never be believed
    if renewal_is_due(files, now):
        _make_server(files, at)
    return files


def renewal_is_due(files: Certificates, now: float) -> bool:
    """Whether the server's certificate is missing, or has under 30 days left at `now` (wall seconds).

    One of the future is of no use either: it was made while the clock was wrong.
    """
    if not (files.certificate.exists() and files.key.exists()):
        return True
    at = datetime.fromtimestamp(now, timezone.utc)
    shown = _load(files.certificate)
    return at < shown.not_valid_before_utc or shown.not_valid_after_utc - at < _RENEW_BELOW


def _make_ca(files: Certificates, at: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gpuq cluster CA")])
    certificate = (
        _builder(name, name, key.public_key(), at, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_file(files.ca_key, _key_pem(key), 0o600)  # first: a CA without its key could never sign a server
    write_file(files.ca, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _make_server(files: Certificates, at: datetime) -> None:
    ca = _load(files.ca)
    ca_key = serialization.load_pem_private_key(files.ca_key.read_bytes(), None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise Conflict(f"{files.ca_key} is not the key of a certificate authority of gpuq")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, TLS_NAME)])
    loopback = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    certificate = (
        _builder(name, ca.subject, key.public_key(), at, _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(TLS_NAME), x509.DNSName("localhost"), *loopback]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    # The certificate last: it is what `renewal_is_due` looks at, and it must never be there beside another's key.
    files.certificate.unlink(missing_ok=True)
    write_file(files.key, _key_pem(key), 0o600)
    write_file(files.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, at: datetime, days: int
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=at - _BACKDATED,
        not_valid_after=at + timedelta(days=days),
    )


def _usage(sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Write a whole file or none of it, never readable by more than `mode` allows, not even for a moment."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    draft.replace(path)
