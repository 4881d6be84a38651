"""Trust: the cluster's own CA is the only one, and one fixed name is verified whatever the address."""

from __future__ import annotations

import ssl
from hashlib import sha256

from gpuq.errors import NotAuthenticated, Unreachable

_LONGEST_TOKEN = 512  # characters; the controller looks at no longer one


class Impostor(Unreachable):
    """What answers is not the controller the token is for. Unlike one that does not answer, it never will be."""


def pinned(ca_pem: str) -> ssl.SSLContext:
    """A context that accepts servers certified by this CA and no other; pass server_hostname=TLS_NAME when wrapping."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name from the start
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # both ends are gpuq's: nothing older has to be spoken
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise Unreachable(f"the CA certificate on record cannot be read: {error}", "log in again") from error
    return context


def unverified() -> ssl.SSLContext:
    """A context for one use only: fetching the CA, before anything secret is said. What it brings is compared."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fingerprint(ca_pem: str) -> str:
    """SHA-256 of the certificate (its DER form, as `openssl x509 -fingerprint -sha256` has it), lower-case hex."""
    return sha256(ssl.PEM_cert_to_DER_cert(ca_pem.strip())).hexdigest()


def is_certificate(text: str, sha256_hex: str) -> bool:
    """Whether a text, from wherever it comes, is the certificate (PEM) with this fingerprint."""
    try:
        return fingerprint(text) == sha256_hex
    except ValueError:
        return False


def fingerprint_in(token: str) -> str:
    """The CA fingerprint a token carries as its last part; raises NotAuthenticated if this is no token of gpuq's."""
    start, _, digest = token.rpartition("_")
    is_word = token.isascii() and token.isprintable() and " " not in token and len(token) <= _LONGEST_TOKEN
    if not (is_word and start.startswith("gpuq_") and len(digest) == 64 and set(digest) <= set("0123456789abcdef")):
        raise NotAuthenticated("this is not a gpuq token", "it begins with gpuq_ and ends in 64 hex digits; is it cut?")
    return digest
