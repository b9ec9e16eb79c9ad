"""What is asked of the extensions of a path: the profiles, as the library's verifier takes them."""

from __future__ import annotations

from functools import cache
from typing import Final, Literal

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy

Profile = Literal["strict", "private-pki"]

_ANY: Final = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE


@cache
def policies_of(profile: Profile, usage: x509.ObjectIdentifier) -> tuple[ExtensionPolicy, ExtensionPolicy]:
    """What a profile asks of CAs and of leaves, in that order, where all are to be for one `usage`.

    Built by relaxing the strict defaults one extension at a time, not from `permit_all`, which drops the
    checks of purpose, of the CA flag and of unknown critical extensions along with the rest.
    """

    def require_usage(
        _policy: Policy, _of: x509.Certificate, extension: x509.ExtendedKeyUsage | None
    ) -> None:
        if extension is not None and usage not in extension:
            raise ValueError("extendedKeyUsage names other purposes only")

    def require_usage_or_any(
        policy: Policy, of: x509.Certificate, extension: x509.ExtendedKeyUsage | None
    ) -> None:
        if extension is not None and _ANY not in extension:
            require_usage(policy, of, extension)

    ca = ExtensionPolicy.webpki_defaults_ca().may_be_present(
        x509.ExtendedKeyUsage, Criticality.AGNOSTIC, require_usage_or_any
    )
    leaf = ExtensionPolicy.webpki_defaults_ee().may_be_present(
        x509.ExtendedKeyUsage, Criticality.AGNOSTIC, require_usage
    )
    if profile == "strict":
        return ca, leaf
    return (
        ca.require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _require_ca)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _require_cert_sign)
        .may_be_present(x509.AuthorityKeyIdentifier, Criticality.AGNOSTIC, None)
        .may_be_present(x509.SubjectKeyIdentifier, Criticality.AGNOSTIC, None),
        leaf.may_be_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None).may_be_present(
            x509.AuthorityKeyIdentifier, Criticality.AGNOSTIC, None
        ),
    )


def _require_ca(_policy: Policy, _of: x509.Certificate, extension: x509.BasicConstraints) -> None:
    if not extension.ca:
        raise ValueError("basicConstraints.cA must be asserted in a certificate that issues")


def _require_cert_sign(_policy: Policy, _of: x509.Certificate, extension: x509.KeyUsage | None) -> None:
    if extension is not None and not extension.key_cert_sign:
        raise ValueError("keyUsage must assert keyCertSign in a certificate that issues")
