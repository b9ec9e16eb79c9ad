"""What is kept of an environ's names is what they tell, whoever came before, and it stays small."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secmiddleware import environ_names
from secmiddleware.environ_names import Names, names_of
from secmiddleware.environs import head_of, show
from secmiddleware.identity.variables import about_client

KEYS = """
HTTP_HOST HTTP_X_NAME HTTP_X_SSL_CLIENT_CERT HTTP_CONTENT_TYPE HTTP_CONTENT_LENGTH HTTP_ X_HTTP_Y HTTPS HTTP
CONTENT_TYPE CONTENT_LENGTH PATH_INFO SSL_CLIENT_VERIFY SSL_CLIENT_CERT REDIRECT_SSL_CLIENT_CERT
HTTPS_DN peercert RAW_URI REQUEST_URI werkzeug.socket
"""
ENVIRONS = st.dictionaries(
    st.sampled_from(KEYS.split()), st.text(st.characters(max_codepoint=255), max_size=4), max_size=8
)


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    environ_names._kept.clear()
    yield
    environ_names._kept.clear()


def headers_in(environ: dict[str, str]) -> list[tuple[bytes, bytes]]:
    """Read without anything kept, in the words of PEP 3333 and RFC 3875."""
    found = [
        (key[5:].replace("_", "-").lower().encode(), value.encode("latin-1"))
        for key, value in environ.items()
        if key.startswith("HTTP_") and key not in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH")
    ]
    content = [key for key in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(key)]
    return found + [
        (key.replace("_", "-").lower().encode(), environ[key].encode("latin-1")) for key in content
    ]


@given(st.lists(ENVIRONS, min_size=1, max_size=8))
@example([{"CONTENT_TYPE": ""}, {"CONTENT_TYPE": "text/plain"}])
@example([{"HTTP_HOST": "a", "HTTP_X_NAME": "b"}, {"HTTP_X_NAME": "b", "HTTP_HOST": "a"}])
@example([{"PATH_INFO": "/"}, {"PATH_INFO": "/", "SSL_CLIENT_CERT": "x"}])
def test_each_environ_is_read_as_if_it_were_the_first(environs: list[dict[str, str]]) -> None:
    for environ in environs * 2:
        assert list(head_of(environ).headers) == headers_in(environ)
        assert head_of(environ) == head_of(environ, Names.of(environ))
        shown = dict(environ)
        show(shown, None, None)
        assert about_client(shown) == ["SSL_CLIENT_VERIFY"]
        assert shown["SSL_CLIENT_VERIFY"] == "NONE"
        assert {key: shown[key] for key in environ if key in shown and key != "SSL_CLIENT_VERIFY"} == {
            key: value for key, value in environ.items() if key not in about_client(environ)
        }


@given(ENVIRONS)
def test_names_that_are_kept_are_what_they_were(environ: dict[str, str]) -> None:
    assert names_of(environ) == names_of(dict(environ)) == Names.of(environ)
    assert names_of(environ) is names_of(dict(environ))


def test_a_caller_who_makes_up_headers_fills_no_memory() -> None:
    for number in range(2000):
        names_of({"PATH_INFO": "/", f"HTTP_X_{number}": "x"})
    assert 0 < len(environ_names._kept) <= 256


@pytest.mark.parametrize(
    "environ",
    [{f"HTTP_X_{'A' * 8000}": "x"}, {f"HTTP_X_{number}": "x" for number in range(129)}],
    ids=["a long name", "many names"],
)
def test_names_beyond_measure_are_read_and_not_kept(environ: dict[str, str]) -> None:
    assert names_of(environ) == Names.of(environ)
    assert list(head_of(environ).headers) == headers_in(environ)
    assert not environ_names._kept
