"""Durations and sizes: one number, one unit, and nothing that could be read in two ways."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from settings.documents import KEYS, MTLS, SERVICE

from secmiddleware.settings.quantities import LONGEST, parse_duration, parse_size, write_duration


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("0s", timedelta(0)),
        ("250ms", timedelta(milliseconds=250)),
        ("30s", timedelta(seconds=30)),
        ("5m", timedelta(minutes=5)),
        ("12h", timedelta(hours=12)),
        ("030d", timedelta(days=30)),
        ("2w", timedelta(days=14)),
        ("36500d", LONGEST),
    ],
)
def test_durations_have_a_number_and_a_unit(text, duration):
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text",
    ["", "30", "s", "1.5h", "1h30m", "30 s", " 30s", "30s\n", "30S", "30M", "1e3s", "+1s", "-1s", "٣s", "²s",
     "1y", "36501d", "9" * 12 + "w", "9" * 5000 + "s", "PT30S"],
)  # fmt: skip
def test_whatever_else_is_no_duration_and_is_not_repeated(text):
    with pytest.raises(ValueError, match=r"^must ") as caught:
        parse_duration(text)
    assert len(text) < 4 or text not in str(caught.value)


@given(st.integers(0, LONGEST // timedelta(milliseconds=1)))
@settings(max_examples=200, deadline=None)
def test_what_is_written_reads_back(milliseconds):
    duration = timedelta(milliseconds=milliseconds)
    assert parse_duration(write_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "size"), [("1B", 1), ("512KiB", 524288), ("4MiB", 4 << 20), ("1GiB", 1 << 30)]
)
def test_sizes_have_a_binary_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "1", "4MB", "4mib", "4 MiB", "-1B", "1.5MiB", "1TiB", "٤MiB", "1B\n"])
def test_whatever_else_is_no_size(text):
    with pytest.raises(ValueError, match=r"^must "):
        parse_size(text)


@pytest.mark.parametrize("size", ["0", '"0B"', "-1", '"2GiB"', "1073741825", "true", "1.0", '"1073741825B"'])
def test_a_body_is_neither_nothing_nor_larger_than_memory_should_be(place, size):
    (found,) = place.findings(f'[service]\nname = "a"\nmax_body = {size}\n[mtls]\nclient = "off"\n')
    assert found.key == "service.max_body"


@pytest.mark.parametrize("key", ["rotate_every", "retire_after", "max_document_age", "rotation.poll"])
def test_what_comes_round_takes_time(place, key):
    text = SERVICE + MTLS + KEYS
    text += '[rotation]\npoll = "0s"\n' if key == "rotation.poll" else f'{key} = "0ms"\n'
    assert [one.message for one in place.findings(text)] == ["must be longer than zero"]
