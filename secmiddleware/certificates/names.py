"""The names that a leaf asserts in its subjectAltName (RFC 5280 §4.2.1.6), read strictly.

A certificate's subject is no source of names: it has no kinds, and a common name can look like any of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from cryptography import x509
from msgspec import Struct

from secmiddleware.certificates.spiffe import check_spiffe_id, is_spiffe_uri, is_usual_spiffe_id

# IA5String of visible characters. A NUL or a line break in a name fools the next reader (CVE-2009-2408).
_is_visible: Final = re.compile(r"[!-~]+").fullmatch


class Names(Struct, frozen=True, gc=False):
    """The names of a leaf, kind by kind, in their order; an IP address in its usual text form."""

    dns: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    """All URIs, a SPIFFE id among them."""
    emails: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    spiffe_id: str | None = None
    others: int = 0
    """How many names there are of kinds that are not read: directory names, registered ids, other names."""

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Names:
        """The names of a certificate; none where it has no subjectAltName.

        Raises ValueError where a name is empty or has anything but visible ASCII, and for a SPIFFE id that is
        not one or stands beside another URI (X509-SVID §2: more than one URI must be rejected).
        """
        try:
            extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return cls()
        return cls.among(extension.value)

    @classmethod
    def among(cls, names: Iterable[x509.GeneralName]) -> Names:
        """The names that stand in a subjectAltName; raises ValueError as `of` does."""
        dns: list[str] = []
        uris: list[str] = []
        emails: list[str] = []
        ips: list[str] = []
        others = 0
        for name in names:
            # Not `match`: a class pattern over the library's abstract classes costs 1 us each.
            kind = type(name)
            if kind is x509.DNSName:
                dns.append(name.value)
            elif kind is x509.UniformResourceIdentifier:
                uris.append(name.value)
            elif kind is x509.RFC822Name:
                emails.append(name.value)
            elif kind is x509.IPAddress:
                ips.append(str(name.value))
            else:
                others += 1
        return cls.of_texts(dns, uris, emails, ips, others)

    @classmethod
    def of_texts(
        cls,
        dns: Sequence[str] = (),
        uris: Sequence[str] = (),
        emails: Sequence[str] = (),
        ips: Sequence[str] = (),
        others: int = 0,
    ) -> Names:
        """The names whose texts these are; raises ValueError as `of` does."""
        for texts in (dns, uris, emails):
            for text in texts:
                if not _is_visible(text):
                    raise ValueError("a name is empty or has other characters than visible ASCII")
        for address in ips:
            if "/" in address:
                raise ValueError("a network stands where an address is due")
        return cls.of_visible(tuple(dns), tuple(uris), tuple(emails), tuple(ips), others)

    @classmethod
    def of_visible(
        cls,
        dns: tuple[str, ...],
        uris: tuple[str, ...],
        emails: tuple[str, ...],
        ips: tuple[str, ...] = (),
        others: int = 0,
    ) -> Names:
        """The same of texts that are known to be visible ASCII, and of addresses, no networks."""
        if len(uris) == 1 and is_usual_spiffe_id(uris[0]):
            return cls(dns, uris, emails, ips, uris[0], others)
        for uri in uris:
            if is_spiffe_uri(uri):
                if len(uris) > 1:
                    raise ValueError("a SPIFFE id stands beside another URI")
                check_spiffe_id(uri)
                return cls(dns, uris, emails, ips, uri, others)
        return cls(dns, uris, emails, ips, None, others)
