"""Where a setting points to: paths, secrets in a file or in the environment, stores and key sources.

A secret may stand here by mistake (a key where its path is due). So a path is shown where it can only be one,
and no other text is.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from secmiddleware.files import SecretFileError, read_secret

# Linux's PATH_MAX; whatever is longer is the content of a file.
_LONGEST_PATH: Final = 4096
# A secret is a URL, a password or a key: larger is the wrong file.
LARGEST_SECRET: Final = 64 * 1024
_FERNET_KEY: Final = 32
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

BROKER_SCHEMES: Final = ("redis", "rediss", "amqp", "amqps")
TLS_SCHEMES: Final = ("rediss", "amqps")
EITHER_REFERENCE: Final = 'a text, { file = "…" } or { env = "…" }'


class SettingError(ValueError):
    """A value that will not do, with what to do about it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def resolve_path(value: object, base: Path) -> Path:
    """The absolute path that a text names, seen from `base`; nothing is looked up on disk."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise SettingError("must be a path (a text)")
    if not value.strip():
        raise SettingError("must not be empty")
    if "-----BEGIN" in value or "\n" in value:
        raise SettingError("looks like the content of a file", "give the path of the file")
    if "\0" in value or len(value) > _LONGEST_PATH:
        raise SettingError("is not a path")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", value):
        raise SettingError("must be a path, not a URL")
    return base / value


def read_reference(value: object, base: Path, environ: Mapping[str, str]) -> str:
    """The text of a secret: given as it is, or by `{ file = "…" }` or `{ env = "NAME" }`.

    A file gives its text less one line end; it must belong to its owner alone.
    """
    if isinstance(value, str):
        return value
    kind, where = _reference(value)
    if kind == "env":
        if where not in environ:
            raise SettingError("the environment variable that it names is not set")
        return environ[where]
    path = resolve_path(where, base)
    try:
        text = read_secret(path, limit=LARGEST_SECRET).decode("utf-8")
    except SecretFileError as error:
        raise SettingError(str(error)) from None
    except UnicodeDecodeError:
        raise SettingError(f"{path}: is not UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")


def resolve_store(value: object, base: Path, environ: Mapping[str, str]) -> str:
    """The place of the key ring: `memory:`, or `file:` with an absolute path."""
    if not isinstance(value, str) and not isinstance(value, Mapping):
        raise SettingError(f"must be {EITHER_REFERENCE}")
    text = read_reference(value, base, environ)
    if text == "memory:":
        return text
    if text.startswith("file:"):
        return f"file:{_after_scheme(text, base)}"
    if text.startswith(("redis:", "rediss:")):
        raise SettingError("Redis is not supported by this version", 'use "file:PATH" or "memory:"')
    raise SettingError('must be "memory:" or "file:PATH"', _file_hint(text, base))


def resolve_broker(value: object, base: Path, environ: Mapping[str, str]) -> str:
    """The broker's URL; "" is none. It may hold a password, so nothing of it is ever told.

    Options in the URL are refused, since some of them switch checks off, and so are lists of brokers.
    """
    text = read_reference(value, base, environ)
    if text in ("", "memory://"):
        return text
    broken = SettingError(
        "is not a URL of a broker", "as in redis://host:6379/0; percent-encode the signs of a password"
    )
    if not text.isprintable() or re.search(r"\s", text):
        raise broken
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise broken from None
    if parts.scheme not in BROKER_SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in BROKER_SCHEMES)
        raise SettingError(f"must be empty, memory://, or begin with one of {known}")
    if not parts.hostname or port == 0:
        raise broken
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise SettingError("must have no options: how the broker is used is not its URL's to say")
    if ";" in text:
        raise SettingError("must name one broker", "in a password, write %3B for a semicolon")
    if parts.scheme.startswith("redis") and not re.fullmatch(r"/?|/[0-9]{1,5}", parts.path):
        raise SettingError("must end in the number of a Redis database, or in nothing")
    return text


def resolve_fernet_key(value: object, base: Path, environ: Mapping[str, str]) -> str:
    """A Fernet key, by reference only: 32 bytes in padded base64url, as `Fernet.generate_key()` has them."""
    if not isinstance(value, Mapping):
        raise SettingError('must be { file = "…" } or { env = "…" }: a key does not stand in the settings')
    key = read_reference(value, base, environ)
    # As Fernet reads it, but in one spelling: of two that differ, one would be a mistake.
    try:
        raw = base64.b64decode(key.encode("ascii"), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    if len(raw) != _FERNET_KEY or base64.urlsafe_b64encode(raw).decode("ascii") != key:
        raise SettingError("is no Fernet key: that is 32 bytes in base64url, 44 characters")
    return key


def resolve_kek(value: object, base: Path) -> str:
    """Where the key-encryption key is: `file:` and an absolute path, or `env:` and a name; it is not read."""
    if isinstance(value, Mapping):
        kind, where = _reference(value)
        value = f"{kind}:{where}"
    if not isinstance(value, str):
        raise SettingError(f"must be {EITHER_REFERENCE}")
    if value.startswith("file:"):
        return f"file:{_after_scheme(value, base)}"
    if value.startswith("env:"):
        if not _VARIABLE.fullmatch(value.removeprefix("env:")):
            raise SettingError('must name an environment variable behind "env:"')
        return value
    if re.match(r"[a-z0-9+-]*(?:kms|vault|azure|gcp|aws)[a-z0-9+-]*:", value):
        raise SettingError("a KMS is not supported by this version", 'use "file:PATH" or "env:NAME"')
    raise SettingError('must be "file:PATH" or "env:NAME"', _file_hint(value, base))


def resolve_recipient(value: object, base: Path) -> Path | Literal["ring", "caller"]:
    """Whom tokens are sealed to: the ring, the caller, or whoever's key is in a file; it is not read."""
    if value == "ring" or value == "caller":
        return value
    if not isinstance(value, str):
        raise SettingError('must be "ring", "caller" or "file:PATH"')
    if not value.startswith("file:"):
        raise SettingError('must be "ring", "caller" or "file:PATH"', _file_hint(value, base))
    return _after_scheme(value, base)


def _reference(value: object) -> tuple[str, str]:
    if not isinstance(value, Mapping):
        raise SettingError(f"must be {EITHER_REFERENCE}")
    items: list[tuple[Any, Any]] = list(value.items())
    if len(items) != 1 or items[0][0] not in ("file", "env"):
        raise SettingError('a table here holds one key, "file" or "env"')
    kind, where = items[0]
    if not isinstance(where, str) or not where:
        raise SettingError(f'"{kind}" must be a text')
    return kind, where


def _after_scheme(text: str, base: Path) -> Path:
    path = text.removeprefix("file:")
    if path.startswith("//"):
        raise SettingError('"file:" is followed by a plain path, without slashes of its own')
    return resolve_path(path, base)


def _file_hint(text: str, base: Path) -> str | None:
    """What to write where a bare path was given. The path itself is shown only if it is there."""
    if _SCHEME.match(text) or "\n" in text or "\0" in text or not text.strip() or len(text) > _LONGEST_PATH:
        return None
    try:
        return f'did you mean "file:{text}"?' if (base / text).is_file() else None
    except OSError:
        return None
