"""The names under which servers say something of a client's certificate: each is found, and nothing else."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from secmiddleware.identity.variables import about_client

WORDS = """
SSL_CLIENT_ SSL_ CLIENT_ HTTPS_CLIENT_ HTTPS_CC HTTPS_DN HTTPS HTTP_ REDIRECT_ mod_ssl.var_lookup mod_ssl.
peercert VERIFY S_DN X REMOTE_ADDR wsgi.input
"""
NAMES = st.lists(st.lists(st.sampled_from(WORDS.split()), max_size=4).map("".join), max_size=6, unique=True)


def speaks(name: str) -> bool:
    while name.startswith("REDIRECT_"):
        name = name.removeprefix("REDIRECT_")
    fixed = ("HTTPS_CC", "HTTPS_DN", "mod_ssl.var_lookup", "peercert")
    return name.startswith(("SSL_CLIENT_", "HTTPS_CLIENT_")) or name in fixed


@given(NAMES)
@example(["HTTPS_DN"])
@example(["peercert", "PATH_INFO"])
@example(["REDIRECT_REDIRECT_mod_ssl.var_lookup"])
@example(["REDIRECT_HTTPS_CLIENT_X"])
@example(["HTTP_X_SSL_CLIENT_CERT", "SSL_CLIENT_CERT"])
def test_every_name_that_speaks_of_a_client_is_found_whatever_stands_beside_it(names: list[str]) -> None:
    assert about_client(dict.fromkeys(names)) == [name for name in names if speaks(name)]
