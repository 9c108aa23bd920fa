# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's certificate authority, and the house's own below it.

The lab CA stands for the public ones: machines and clients trust it, and the outside's servers are certified by it.
The house CA is what a household would make for itself; being signed by the lab CA,
what it issues verifies everywhere here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lab.model import LabError, state_dir

_DAY = dt.timedelta(days=1)


def folder() -> Path:
    """Where certificates and keys lie: NAME.crt (leaf first, then its issuer) and NAME.key."""
    return state_dir() / "ca"


def _write(name: str, key: ec.EllipticCurvePrivateKey, chain: Iterable[x509.Certificate]) -> None:
    folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    key_file, certificate_file = folder() / f"{name}.key", folder() / f"{name}.crt"
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    partial = certificate_file.with_suffix(".new")
    partial.write_bytes(b"".join(cert.public_bytes(serialization.Encoding.PEM) for cert in chain))
    partial.rename(certificate_file)


def _load(name: str) -> tuple[ec.EllipticCurvePrivateKey, list[x509.Certificate]]:
    key = serialization.load_pem_private_key((folder() / f"{name}.key").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise LabError(f"{folder() / name}.key is not the lab's")
    return key, x509.load_pem_x509_certificates((folder() / f"{name}.crt").read_bytes())


def _issue(
    common_name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None,
    names: Iterable[str] = (),
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    is_ca = not names
    issuer_key, issuer_name = (issuer[0], issuer[1].subject) if issuer else (key, subject)
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 3650 * _DAY if is_ca else now + 397 * _DAY)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=is_ca,
                crl_sign=is_ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not is_ca:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def cross_signed(pem: bytes) -> bytes:
    """A certificate by the lab CA for the name and key of another authority: whoever trusts the lab then trusts it.

    Args:
        pem: the other authority's own certificate.
    """
    root()
    issuer_key, (issuer, *_) = _load("lab")
    other = x509.load_pem_x509_certificate(pem)
    builder = (
        x509.CertificateBuilder()
        .subject_name(other.subject)
        .issuer_name(issuer.subject)
        .public_key(other.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(other.not_valid_before_utc)
        .not_valid_after(min(other.not_valid_after_utc, issuer.not_valid_after_utc))
    )
    for kind in (x509.BasicConstraints, x509.KeyUsage, x509.SubjectKeyIdentifier):
        extension = other.extensions.get_extension_for_class(kind)
        builder = builder.add_extension(extension.value, critical=extension.critical)
    known = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    certificate = builder.add_extension(known, critical=False).sign(issuer_key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)


def root() -> Path:
    """The certificate that everybody in the lab trusts; made on first use, with the house's."""
    certificate = folder() / "lab.crt"
    if not certificate.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write("lab", key, [_issue("kubecozy lab CA", key, None)])
    if not (folder() / "house.crt").exists():
        issuer_key, issuer = _load("lab")
        key = ec.generate_private_key(ec.SECP256R1())
        _write("house", key, [_issue("kubecozy house CA", key, (issuer_key, issuer[0]))])
    return certificate


def server(name: str, hosts: Iterable[str]) -> tuple[Path, Path]:
    """Certificate and key of a server outside, for exactly these host names."""
    wanted = sorted(set(hosts))
    root()
    try:
        certificate = _load(name)[1][0]
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        current = sorted(names.get_values_for_type(x509.DNSName)) == wanted
        current = current and certificate.not_valid_after_utc - _DAY > dt.datetime.now(dt.UTC)
    except (OSError, ValueError):
        current = False
    if not current:
        issuer_key, issuer = _load("lab")
        key = ec.generate_private_key(ec.SECP256R1())
        _write(name, key, [_issue(name, key, (issuer_key, issuer[0]), wanted)])
    return folder() / f"{name}.crt", folder() / f"{name}.key"
