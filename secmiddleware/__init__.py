"""Mutual TLS, field encryption and key rotation for the web app you already have.

The public names, imported when they are first used (PEP 562): `import secmiddleware` itself loads nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from secmiddleware.certificates.manager import CertificateManager
    from secmiddleware.encryption.manager import EncryptionManager
    from secmiddleware.errors import ConfigError, SecMiddlewareError
    from secmiddleware.fields.encrypted import Encrypted
    from secmiddleware.identity.bound_tokens import is_bound
    from secmiddleware.messages import Identity
    from secmiddleware.security import SecurityManager

__version__ = "0.1.0"

__all__ = [
    "CertificateManager",
    "ConfigError",
    "Encrypted",
    "EncryptionManager",
    "Identity",
    "SecMiddlewareError",
    "SecurityManager",
    "is_bound",
]

_HOME: Final = {
    "CertificateManager": "secmiddleware.certificates.manager",
    "ConfigError": "secmiddleware.errors",
    "Encrypted": "secmiddleware.fields.encrypted",
    "EncryptionManager": "secmiddleware.encryption.manager",
    "Identity": "secmiddleware.messages",
    "SecMiddlewareError": "secmiddleware.errors",
    "SecurityManager": "secmiddleware.security",
    "is_bound": "secmiddleware.identity.bound_tokens",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
