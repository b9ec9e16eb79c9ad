"""The marked values of a JSON text, found another way: the standard library's scanner and plain recursion.

It shares nothing with the code under test but the steps of a mark, and is slow.
"""

import json
from itertools import accumulate
from json.decoder import scanstring
from json.scanner import make_scanner

from secmiddleware.fields.marks import Descend, Each, Index, Name

WS = " \t\n\r"


def refuse(constant):
    raise ValueError(constant)


def is_json(body):
    """What the standard library makes of it, without the liberties that it takes."""
    try:
        json.loads(body.decode("utf-8"), parse_constant=refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


def depth(text):
    """How deep arrays and objects stand inside each other in a JSON text."""
    deepest = now = 0
    in_string = escaped = False
    for byte in text:
        if in_string:
            in_string = escaped or byte != ord('"')
            escaped = byte == ord("\\") and not escaped
        elif byte == ord('"'):
            in_string = True
        elif byte in b"[{":
            now += 1
            deepest = max(deepest, now)
        elif byte in b"]}":
            now -= 1
    return deepest


def marked(body, marks):
    """The hits, and whether an object has a name of a mark twice where the mark has it.

    A hit is (start, end, index of the mark) in bytes; they are in order, outermost only; the first mark wins
    a value.
    """
    text = body.decode("utf-8")
    found = []
    scan = make_scanner(json.JSONDecoder(parse_int=str, parse_float=str))
    twice = []
    offsets = range(len(text) + 1)
    if not body.isascii():
        offsets = [0, *accumulate(len(char.encode("utf-8")) for char in text)]

    def skip(at):
        while text[at : at + 1] and text[at] in WS:
            at += 1
        return at

    def visit(at, wanted):
        """The end of the value at `at`; `wanted` are the marks' remaining steps."""
        hits = [mark for mark, steps in wanted if not steps]
        if hits:
            _, end = scan(text, at)
            found.append((offsets[at], offsets[end], min(hits)))
            return end
        if text[at] == "{":
            at = skip(at + 1)
            steps = [steps[0] for _, steps in wanted]
            named = {step.name for step in steps if isinstance(step, Name | Descend)}
            seen = set()
            while text[at] != "}":
                name, at = scanstring(text, at + 1, True)
                if name in named and name in seen:
                    twice.append(name)
                seen.add(name)
                at = skip(skip(at) + 1)
                at = skip(visit(at, list(further(wanted, name))))
                if text[at] == ",":
                    at = skip(at + 1)
            return at + 1
        if text[at] == "[":
            at, index = skip(at + 1), 0
            while text[at] != "]":
                at = skip(visit(at, list(further(wanted, index))))
                if text[at] == ",":
                    at = skip(at + 1)
                index += 1
            return at + 1
        return scan(text, at)[1]

    visit(
        skip(1 if text.startswith("\ufeff") else 0), [(index, mark.steps) for index, mark in enumerate(marks)]
    )
    return found, bool(twice)


def further(wanted, way):
    for mark, (step, *rest) in wanted:
        if isinstance(step, Descend):
            yield mark, (step, *rest)
            if step.name == way:
                yield mark, tuple(rest)
        elif (
            isinstance(step, Each)
            or (isinstance(step, Name) and step.name == way)
            or (isinstance(step, Index) and type(way) is int and step.index == way)
        ):
            yield mark, tuple(rest)
