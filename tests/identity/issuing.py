"""An authorization server: its keys, its JWK Set, its tokens; and, made by hand, the tokens of forgers."""

from __future__ import annotations

import hashlib
import hmac
import json
import warnings
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any, Final

from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

ISSUER: Final = "https://issuer.example"
AUDIENCE: Final = "https://shop.example"

KIND_OF: Final = {
    "es": ("ES256", lambda: ECKey.generate_key("P-256")),
    "es384": ("ES384", lambda: ECKey.generate_key("P-384")),
    "es512": ("ES512", lambda: ECKey.generate_key("P-521")),
    "rsa": ("RS256", lambda: RSAKey.generate_key(2048)),
    "pss": ("PS256", lambda: RSAKey.generate_key(2048)),
    "ed": ("EdDSA", lambda: OKPKey.generate_key("Ed25519")),
    "ed448": ("Ed448", lambda: OKPKey.generate_key("Ed448")),
}


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def thumbprint(der: bytes) -> str:
    """RFC 8705 §3.1."""
    return base64url(hashlib.sha256(der).digest())


def segment(value: object) -> str:
    """A part of a token: what stands there if it is text, else JSON."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return base64url(text.encode("utf-8", "surrogatepass"))


class Issuer:
    """`keys` are private, by their kid; whoever else has them is the issuer."""

    def __init__(self, *names: str) -> None:
        self.algorithms = {name: KIND_OF[name][0] for name in names or ("es", "rsa", "ed")}
        self.keys: dict[str, Any] = {name: KIND_OF[name][1]() for name in self.algorithms}
        self.public = {name: key.as_dict(private=False) | {"kid": name} for name, key in self.keys.items()}

    def write_jwks(self, path: Path, *names: str) -> Path:
        keys = [self.public[name] | {"use": "sig"} for name in names or self.keys]
        path.write_text(json.dumps({"keys": keys}))
        return path

    def claims(self, now: float, der: bytes = b"", **more: Any) -> dict[str, Any]:
        """Good ones, bound to a certificate; None takes one away."""
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "client-7",
            "iat": int(now),
            "exp": int(now) + 300,
            "cnf": {"x5t#S256": thumbprint(der)},
        }
        return {name: value for name, value in (claims | more).items() if value is not None}

    def sign(self, claims: object, by: str = "es", **header: Any) -> str:
        """A token by joserfc; None takes a member of its header away."""
        told = {"typ": "at+jwt", "alg": self.algorithms[by], "kid": by} | header
        protected = {name: value for name, value in told.items() if value is not None}
        return self.sign_raw(json.dumps(protected), claims, by, protected.get("alg", self.algorithms[by]))

    def sign_raw(self, protected: str, claims: object, by: str = "es", algorithm: str | None = None) -> str:
        """A token whose parts are these texts, truly signed: what joserfc itself would not make."""
        signed = f"{segment(protected)}.{segment(claims)}"
        registry = jws.JWSRegistry(algorithms=list(jws.JWSRegistry.algorithms))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joserfc calls EdDSA deprecated (RFC 9864)
            model = registry.get_alg(algorithm or self.algorithms[by])
        return f"{signed}.{base64url(model.sign(signed.encode(), self.keys[by]))}"

    def with_public_key_as_secret(self, claims: object, of: str = "rsa") -> str:
        """HS256, with what is public as the secret: RFC 8725 §2.1."""
        signed = f"{segment({'alg': 'HS256', 'kid': of})}.{segment(claims)}"
        secret = self.keys[of].as_pem(private=False)
        return f"{signed}.{base64url(hmac.digest(secret, signed.encode(), 'sha256'))}"
