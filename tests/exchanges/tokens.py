"""The access tokens of the rows: good ones, and one for each way of being wrong."""

from __future__ import annotations

import hashlib
import json
import time

from identity.issuing import Issuer, base64url, segment


def make(issuer: Issuer, der: bytes, kind: str) -> str:
    """A token that is bound to this certificate, wrong as `kind` says; "" and "rsa" are good."""
    now = time.time()
    claims = issuer.claims(now, der)
    match kind:
        case "" | "rsa":
            return issuer.sign(claims, kind or "es")
        case "none":
            return f"{segment({'alg': 'none'})}.{segment(claims)}."
        case "hmac":
            return issuer.with_public_key_as_secret(claims)
        case "swapped":
            return issuer.sign(claims, kid="rsa")
        case "unsigned":
            return issuer.sign(claims).rpartition(".")[0] + "."
        case "changed":
            protected, _, signature = issuer.sign(claims).split(".")
            return f"{protected}.{segment(claims | {'sub': 'root'})}.{signature}"
        case "stranger":
            return Issuer("es").sign(claims)
        case "critical":
            return issuer.sign(claims, crit=["exp"])
        case "expired":
            return issuer.sign(claims | {"exp": int(now) - 31})
        case "future":
            return issuer.sign(claims | {"nbf": int(now) + 3600, "exp": int(now) + 7200})
        case "endless":
            return issuer.sign(issuer.claims(now, der, exp=None))
        case "elsewhere":
            return issuer.sign(claims | {"aud": "https://bank.example"})
        case "another-issuer":
            return issuer.sign(claims | {"iss": "https://issuer.example/"})
        case "unbound":
            return issuer.sign(issuer.claims(now, cnf=None))
        case "sha1":
            return issuer.sign(claims | {"cnf": {"x5t": base64url(hashlib.sha1(der).digest())}})
        case "doubled":
            again = json.dumps({"cnf": claims["cnf"]})[1:]
            return issuer.sign(json.dumps(claims)[:-1] + ", " + again)
        case "nested":
            return issuer.sign(issuer.sign(claims), cty="JWT")
        case "huge":
            return issuer.sign(claims | {"a": "a" * 2000})
    raise ValueError(kind)
