"""The types of single values in the settings: what each may be, and what it becomes.

One value at a time is read here. Paths and secrets resolve against the validation context (`base`, `environ`)
that `loading` gives; without one, against the working directory and the process's environment.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
)

from secmiddleware.certificates.spiffe import check_trust_domain
from secmiddleware.fields.head_marks import read_mark
from secmiddleware.identity.patterns import NamePattern
from secmiddleware.identity.policy import is_plain_method
from secmiddleware.paths import PathPattern
from secmiddleware.settings.quantities import (
    DURATION_PATTERN,
    LARGEST,
    LONGEST,
    SIZE_PATTERN,
    parse_duration,
    parse_size,
)
from secmiddleware.settings.references import (
    SettingError,
    resolve_broker,
    resolve_fernet_key,
    resolve_kek,
    resolve_path,
    resolve_recipient,
    resolve_store,
)

# A URL's usual limit; the parsers of marks and patterns never see more.
_LONGEST_TEXT: Final = 2000
# A uid has 32 bits, and the last one stands for "nobody said" (POSIX chown).
_MOST_USERS: Final = (1 << 32) - 1
# Certificates end on whole seconds, and a process may hold thousands of sockets.
_SHORTEST_RECHECK: Final = timedelta(seconds=1)


def _base(info: ValidationInfo) -> Path:
    return Path.cwd() if info.context is None else Path(info.context["base"])


def _environ(info: ValidationInfo) -> Mapping[str, str]:
    if info.context is None:
        return os.environ
    environ: Mapping[str, str] = info.context["environ"]
    return environ


def _duration(value: object) -> timedelta:
    if isinstance(value, str):
        return parse_duration(value)
    if not isinstance(value, timedelta):
        raise SettingError(
            'must be a duration, in quotation marks and with its unit, as in "30s", "5m" or "30d"'
        )
    if value < timedelta(0):
        raise SettingError("must not be negative")
    if value > LONGEST:
        raise SettingError(f"must be no longer than {LONGEST.days}d")
    return value


def _positive_duration(value: object) -> timedelta:
    duration = _duration(value)
    if not duration:
        raise SettingError("must be longer than zero")
    return duration


def _recheck(value: object) -> timedelta | None:
    if value == "off":
        return None
    duration = _duration(value)
    if duration < _SHORTEST_RECHECK:
        raise SettingError('must be at least "1s"; "off" judges a websocket only when it begins')
    return duration


def _size(value: object) -> int:
    if isinstance(value, str):
        value = parse_size(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise SettingError('must be a number of bytes, or a text such as "512KiB" or "4MiB"')
    if not 0 < value <= LARGEST:
        raise SettingError('must be between 1 byte and "1GiB"')
    return value


def read_text(value: object) -> str:
    """A text that says something. Raises SettingError for anything else."""
    if not isinstance(value, str):
        raise SettingError("must be a text")
    if not value.strip():
        raise SettingError("must not be empty")
    if len(value) > _LONGEST_TEXT:
        raise SettingError(f"must have at most {_LONGEST_TEXT} characters")
    return value


def _service_name(value: object) -> str:
    text = read_text(value)
    if len(text) > 100 or not text.isprintable():
        raise SettingError("must be one printable line of at most 100 characters")
    return text


def _mount(value: object) -> str:
    if not isinstance(value, str):
        raise SettingError("must be a text")
    if value and (
        not re.fullmatch(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+", value) or {".", ".."} & set(value.split("/"))
    ):
        raise SettingError(
            'must be "", or a plain path that starts with "/" and does not end in one, as in "/shop"'
        )
    return value


def _identifier(value: object) -> str:
    text = read_text(value)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", text) or "__" in text:
        raise SettingError(
            "must be a name of up to 64 letters, digits, - and single _, that starts with a letter"
        )
    return text


def _path_pattern(value: object) -> str:
    text = read_text(value)
    PathPattern.parse(text)
    return text


def _name_pattern(value: object) -> str:
    text = read_text(value)
    NamePattern.parse(text)
    return text


def _asserted_name(value: object) -> str:
    text = _name_pattern(value)
    if not NamePattern.parse(text).is_of_names:
        raise SettingError("a CA asserts names: spiffe:// dns: email: uri: or ip:")
    return text


def _method(value: object) -> str:
    text = read_text(value)
    if text == "*":
        raise SettingError('must be a method, and "*" is none: leave methods out for all of them')
    if not is_plain_method(text):
        raise SettingError('must be a method in capitals, as in "GET": methods are case-sensitive')
    return text


def _trust_domain(value: object) -> str:
    text = read_text(value)
    check_trust_domain(text)
    return text


def _mark(value: object) -> str:
    text = read_text(value)
    read_mark(text)
    return text


def _callback(value: object) -> str:
    text = read_text(value)
    module, colon, function = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *function.split("."))):
        raise SettingError('must name a function as "module:function", as in "shop.security:on_rotation"')
    return text


def _marks_from(value: object, info: ValidationInfo) -> str:
    text = read_text(value)
    file, hash_, pointer = text.partition("#")
    if hash_:
        if not file or not pointer.startswith("/"):
            raise SettingError(
                "must name a schema in a document as FILE#/POINTER",
                'as in "openapi.json#/components/schemas/Customer"',
            )
        return f"{resolve_path(file, _base(info))}#{pointer}"
    module, colon, name = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise SettingError(
            'must name a model as "module:Model", or a schema as "FILE#/POINTER"',
            'as in "shop.models:Customer" or "openapi.json#/components/schemas/Customer"',
        )
    return text


def _host_address(value: object) -> str:
    text = read_text(value)
    try:
        address = ip_address(text)
    except ValueError:
        raise SettingError(
            "must be an IP address, without a port or a zone: names are not looked up"
        ) from None
    if "%" in text:
        raise SettingError("must be an IP address without a zone")
    return str(getattr(address, "ipv4_mapped", None) or address)


def read_network(value: object) -> str:
    """A network in its one spelling. Raises SettingError for what is none, and for host bits."""
    text = read_text(value)
    try:
        return str(ip_network(text))
    except ValueError:
        raise SettingError('must be a network without host bits, as in "10.0.0.0/24"') from None


def _user_id(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_USERS:
        return value
    if not isinstance(value, str):
        raise SettingError("must be a user's id (a number) or name")
    try:
        return pwd.getpwnam(value).pw_uid
    except (KeyError, ValueError):
        raise SettingError("is no user of this host") from None


def _header_name(value: object) -> str:
    text = read_text(value).lower()
    if not re.fullmatch(r"[a-z0-9-]{1,100}", text):
        raise SettingError("must be a header's name: letters, digits and dashes")
    return text


def _texts(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _path(value: object, info: ValidationInfo) -> Path:
    return resolve_path(value, _base(info))


def _broker(value: object, info: ValidationInfo) -> SecretStr:
    return SecretStr(resolve_broker(value, _base(info), _environ(info)))


def _store(value: object, info: ValidationInfo) -> str:
    return resolve_store(value, _base(info), _environ(info))


def _fernet_key(value: object, info: ValidationInfo) -> SecretStr:
    return SecretStr(resolve_fernet_key(value, _base(info), _environ(info)))


def _recipient(value: object, info: ValidationInfo) -> Path | Literal["ring", "caller"]:
    return resolve_recipient(value, _base(info))


def _kek(value: object, info: ValidationInfo) -> str:
    return resolve_kek(value, _base(info))


class Section(BaseModel):
    """What all tables of the settings share: no other keys, no coercion, no change, no input in errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class FileReference(Section):
    """A secret that stands in a file of its own."""

    file: str


class EnvReference(Section):
    """A secret that stands in an environment variable."""

    env: str


class IsReference:
    """Marks a setting that may be a `FileReference` or an `EnvReference`, for those who walk the models."""


_REFERENCE: Any = str | FileReference | EnvReference
_DURATION: Any = Annotated[str, Field(pattern=DURATION_PATTERN)]
_SIZE: Any = Annotated[int, Field(gt=0, le=LARGEST)] | Annotated[str, Field(pattern=SIZE_PATTERN)]

Duration = Annotated[timedelta, BeforeValidator(_duration, json_schema_input_type=_DURATION)]
PositiveDuration = Annotated[timedelta, BeforeValidator(_positive_duration, json_schema_input_type=_DURATION)]
Recheck = Annotated[
    timedelta | None,
    BeforeValidator(_recheck, json_schema_input_type=_DURATION | Literal["off"]),
]
Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=_SIZE)]
PathSetting = Annotated[Path, BeforeValidator(_path, json_schema_input_type=str)]
Broker = Annotated[SecretStr, BeforeValidator(_broker, json_schema_input_type=_REFERENCE), IsReference()]
Store = Annotated[str, BeforeValidator(_store, json_schema_input_type=_REFERENCE), IsReference()]
FernetKey = Annotated[
    SecretStr,
    BeforeValidator(_fernet_key, json_schema_input_type=FileReference | EnvReference),
    IsReference(),
]
Kek = Annotated[str, BeforeValidator(_kek, json_schema_input_type=_REFERENCE), IsReference()]
JweRecipient = Annotated[
    Literal["ring", "caller"] | Path, BeforeValidator(_recipient, json_schema_input_type=str)
]
Text = Annotated[str, BeforeValidator(read_text)]
Texts = Annotated[
    tuple[Text, ...],
    Field(min_length=1, max_length=100),
    BeforeValidator(_texts, json_schema_input_type=str | Annotated[tuple[str, ...], Field(min_length=1)]),
]
ServiceName = Annotated[str, BeforeValidator(_service_name)]
Mount = Annotated[str, BeforeValidator(_mount)]
Identifier = Annotated[str, BeforeValidator(_identifier)]
PathText = Annotated[str, BeforeValidator(_path_pattern)]
NameText = Annotated[str, BeforeValidator(_name_pattern)]
MethodText = Annotated[str, BeforeValidator(_method)]
AssertedName = Annotated[str, BeforeValidator(_asserted_name)]
TrustDomain = Annotated[str, BeforeValidator(_trust_domain)]
MarkText = Annotated[str, BeforeValidator(_mark)]
MarksSource = Annotated[str, BeforeValidator(_marks_from, json_schema_input_type=str)]
Callback = Annotated[str, BeforeValidator(_callback)]
HeaderName = Annotated[str, BeforeValidator(_header_name)]
HostAddress = Annotated[str, BeforeValidator(_host_address)]
NetworkText = Annotated[str, BeforeValidator(read_network)]
UserId = Annotated[int, BeforeValidator(_user_id, json_schema_input_type=int | str)]
