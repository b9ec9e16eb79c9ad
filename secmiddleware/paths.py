"""The path that is judged, and the patterns that rules are written in.

A rule is worth something only if the path it looks at is the path that the app routes by. So a target that
two readers could read in two ways is refused before any rule sees it; what is left is compared segment by
segment, decoded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import unquote_to_bytes

from secmiddleware.messages import Refusal, RequestHead
from secmiddleware.patterns import compiled

# "." and "..", also with a path parameter ("..;x"), since Java proxies strip those before they route.
_DOT_SEGMENT: Final = r"\.\.?(?:;[^/]*)?(?:/|\Z)"

# The common target: no percent, no segment that begins with a dot, nothing that a reader could take for
# something else. One pass, nothing cut up, no way back.
_PLAIN: Final = compiled(rb"(?:/[A-Za-z0-9_~!$&'()*+,;=:@-][A-Za-z0-9._~!$&'()*+,;=:@-]*+)++/?|/")

# Visible ASCII and whole percent-escapes; no "#", "?", backslash. Dots, slashes, backslashes, control bytes
# never as escapes, and never "%25" before two hex digits: an app that decodes twice would route by another
# path.
_TARGET: Final = re.compile(
    rb"/(?:[!\"$&->@-\[\]-~]"
    rb"|%(?!2[EFef]|5[Cc]|[01][0-9A-Fa-f]|7[Ff]|25[0-9A-Fa-f]{2})[0-9A-Fa-f]{2})*"
)

# What no decoded path may hold: doubled slashes, dot segments, backslashes, C0, DEL and C1 controls, unpaired
# surrogates, and an escape that is still there after decoding.
_UNSAFE: Final = re.compile(rf"//|/{_DOT_SEGMENT}|[\\\x00-\x1f\x7f-\x9f\ud800-\udfff]|%[0-9A-Fa-f]{{2}}")

# Where only the decoded path is known, these may stand for a raw "#", a broken escape or broken UTF-8.
_UNSAFE_WITHOUT_TARGET: Final = re.compile(r"[#%\ufffd]")

_AMBIGUOUS: Final = Refusal("path_ambiguous")


def judge_path(head: RequestHead, mount: str) -> str | Refusal:
    """The path that the app routes by, `mount` taken off, always with a leading slash; or `path_ambiguous`.

    `mount` is `""` or a prefix such as `/v1` without a trailing slash; the head's `root_path` must be the
    same, since clients can send one (SCRIPT_NAME), and the path must lie under it. Refused are dot segments,
    doubled slashes, backslashes, encoded dots, slashes, backslashes and control bytes, double encoding,
    broken percent-encoding, UTF-8 that is overlong or broken, `#`, and targets in any other than the origin
    form (RFC 9112 §3.2.1). Where the server tells the raw target, it must decode to the path that the app is
    given, with or without `root_path` in front.
    """
    if head.root_path != mount:
        return _AMBIGUOUS
    path, raw = head.path, head.raw_path
    if raw is None:
        if not path.startswith("/") or _UNSAFE.search(path) or _UNSAFE_WITHOUT_TARGET.search(path):
            return _AMBIGUOUS
    else:
        decoded = raw.decode("ascii") if _PLAIN.fullmatch(raw) else _decoded(raw)
        # Servers differ on whether the raw target has root_path in front; the path always has.
        if decoded is None or (decoded != path and mount + decoded != path):
            return _AMBIGUOUS
    if not mount:
        return path
    if not path.startswith(mount):
        return _AMBIGUOUS
    routed = path[len(mount) :]
    if routed and not routed.startswith("/"):
        return _AMBIGUOUS
    return routed or "/"


def _decoded(raw: bytes) -> str | None:
    """The target's path, decoded once, or None where it can be read in two ways."""
    if not _TARGET.fullmatch(raw):
        return None
    try:
        path = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if _UNSAFE.search(path) else path


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A pattern over routed paths: literal segments, `*` for one non-empty segment, a last `/**` for a tree.

    `/admin/**` matches the folder `/admin` itself and everything below. Case counts. One trailing slash of a
    path is insignificant, since apps differ on it. Raises ValueError with a sentence for the operator.
    """

    text: str
    segments: tuple[str, ...] = field(init=False, repr=False, compare=False)
    tree: bool = field(init=False, repr=False, compare=False)
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text = self.text
        if not text.startswith("/"):
            raise ValueError("a path pattern starts with a slash")
        segments = text[1:].split("/")
        tree = segments[-1] == "**"
        if tree or segments[-1] == "":  # a trailing slash, no more significant here than in a path
            segments.pop()
        for segment in segments:
            _check_segment(segment)
        parts = ["/[^/]+" if segment == "*" else "/" + re.escape(segment) for segment in segments]
        ending = "(?:/.*)?" if tree else "/?"
        object.__setattr__(self, "text", "/" + "/".join([*segments, *(["**"] if tree else [])]))
        object.__setattr__(self, "segments", tuple(segments))
        object.__setattr__(self, "tree", tree)
        object.__setattr__(self, "_regex", re.compile("".join(parts) + ending, re.DOTALL))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The pattern that a text stands for; ValueError with a clear sentence where it stands for none."""
        return cls(text)

    def matches(self, path: str) -> bool:
        """Whether a routed path, decoded and with a leading slash, falls under the pattern."""
        return self._regex.fullmatch(path) is not None

    @property
    def regex(self) -> str:
        """The pattern as a regular expression without groups, for `fullmatch` with DOTALL."""
        return self._regex.pattern

    def covers(self, other: PathPattern) -> bool:
        """Whether every path that `other` matches is matched here too."""
        if self.tree:
            if len(other.segments) < len(self.segments):
                return False
        elif other.tree or len(other.segments) != len(self.segments):
            return False
        pairs = zip(self.segments, other.segments, strict=False)  # a tree looks at its own depth only
        return all(mine in ("*", theirs) for mine, theirs in pairs)

    def __str__(self) -> str:
        return self.text


def _check_segment(segment: str) -> None:
    """Raise ValueError where no judged path could have this segment, or where another syntax was meant."""
    if segment == "":
        raise ValueError("a path pattern has no empty segment: the path that is judged never has one")
    if segment == "**":
        raise ValueError("/** stands at the end of a path pattern only")
    if segment in (".", ".."):
        raise ValueError("a path pattern has no dot segment: the path that is judged never has one")
    if "*" in segment and segment != "*":
        raise ValueError("* stands for one whole segment, not for a part of one")
    if segment[0] + segment[-1] in ("{}", "<>"):
        raise ValueError("a path pattern has no named parameters: write * for one segment")
    if "?" in segment or "#" in segment:
        raise ValueError("a path pattern ends before the query and the fragment")
    if re.search("%[0-9A-Fa-f]{2}", segment):
        raise ValueError("a path pattern is written decoded, without percent-escapes")
    if re.search(r"[\\\x00-\x1f\x7f-\x9f\ud800-\udfff]", segment):
        raise ValueError("a path pattern has no backslashes and no control characters")
