"""The names that a leaf asserts in its subjectAltName (RFC 5280 §4.2.1.6), read strictly.

A certificate's subject is no source of names: it has no kinds, and a common name can look like any of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from secmiddleware.certificates.spiffe import check_spiffe_id, is_spiffe_uri

# IA5String of visible characters. A NUL or a line break in a name fools the next reader (CVE-2009-2408).
_VISIBLE_ASCII: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Names:
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
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return cls()
        dns = tuple(names.get_values_for_type(x509.DNSName))
        uris = tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
        emails = tuple(names.get_values_for_type(x509.RFC822Name))
        ips = tuple(str(address) for address in names.get_values_for_type(x509.IPAddress))
        for name in (*dns, *uris, *emails):
            if not _VISIBLE_ASCII.fullmatch(name):
                raise ValueError("a name is empty or has other characters than visible ASCII")
        if any("/" in address for address in ips):
            raise ValueError("a network stands where an address is due")
        spiffe_id = None
        if any(is_spiffe_uri(uri) for uri in uris):
            if len(uris) > 1:
                raise ValueError("a SPIFFE id stands beside another URI")
            spiffe_id = uris[0]
            check_spiffe_id(spiffe_id)
        others = len(list(names)) - len(dns) - len(uris) - len(emails) - len(ips)
        return cls(dns, uris, emails, ips, spiffe_id, others)
