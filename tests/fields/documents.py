"""Random JSON texts, spelled in every way that the grammar leaves open, and marks that may hit them."""

import json

from secmiddleware.fields.marks import Descend, Each, Index, Mark, Name

NAMES = ["ssn", "a", "b", "ss", "", "a.b", ":", 'a"ssn', "s\\n", "é", "😀", "a\tb", "]", "{", "/", "1"]
TEXTS = [
    "",
    "x",
    "ssn",
    '"ssn":1',
    '"',
    "\\",
    "\\\\",
    "{}",
    "[[[",
    "]",
    "}",
    ",",
    "é",
    "😀",
    "\n",
    "\\u0073",
    ":",
]
NUMBERS = ["0", "-0", "1.10", "1E+2", "12345678901234567890.123", "-1e-400", "123456789012345678901234567890"]
SHORT = {
    '"': '\\"',
    "\\": "\\\\",
    "/": "\\/",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}


def string(random, text):
    out = []
    for char in text:
        if random.random() < 0.12:
            units = char.encode("utf-16-be")
            pairs = [units[i : i + 2].hex() for i in range(0, len(units), 2)]
            out += ["\\u" + (p.upper() if random.random() < 0.5 else p) for p in pairs]
        elif char in SHORT and (char != "/" or random.random() < 0.5):
            out.append(SHORT[char])
        else:
            out.append(char)
    if random.random() < 0.01:
        out.insert(random.randrange(len(out) + 1), random.choice(["\\ud800", "\\uDFFF", "\\\\ud800"]))
    return '"' + "".join(out) + '"'


def ws(random):
    return (
        ""
        if random.random() < 0.8
        else "".join(random.choice(" \t\n\r") for _ in range(random.randint(1, 3)))
    )


def value(random, depth, narrow):
    kind = random.random()
    if depth <= 0 or kind < 0.35:
        return random.choice(
            [
                string(random, random.choice(TEXTS)),
                random.choice(NUMBERS),
                "true",
                "false",
                "null",
                "[]",
                "{ }",
            ]
        )
    w = lambda: ws(random)  # noqa: E731
    count = 1 if narrow and random.random() < 0.8 else random.randint(0, 4)
    if kind < 0.6:
        inner = ",".join(w() + value(random, depth - 1, narrow) + w() for _ in range(count))
        return f"[{inner or w()}]"
    names = random.sample(NAMES, 3) if random.random() < 0.5 else NAMES[:4]
    inner = ",".join(
        w() + string(random, random.choice(names)) + w() + ":" + w() + value(random, depth - 1, narrow) + w()
        for _ in range(count)
    )
    return "{" + (inner or w()) + "}"


def document(random):
    depth, narrow = random.choice([(2, False), (4, False), (5, False), (14, True), (30, True)])
    bom = "\ufeff" if random.random() < 0.05 else ""
    return (bom + ws(random) + value(random, depth, narrow) + ws(random)).encode("utf-8")


def broken(random, body):
    """The body with a few bytes lost, doubled, swapped or made up."""
    data = bytearray(body)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(data) + 1)
        match random.randrange(4):
            case 0:
                del data[at : at + random.randint(1, 3)]
            case 1:
                data[at:at] = data[at : at + random.randint(1, 5)]
            case 2:
                data[at : at + 1] = bytes([random.randrange(256)])
            case _:
                data[at:at] = random.choice(
                    [b'"', b"\\", b"{", b"]", b",", b":", b"NaN", b"\xff", b"\x00", b"//"]
                )
    return bytes(data)


def mark(random):
    steps = []
    for _ in range(random.choice([1, 1, 2, 2, 3, 4])):
        name = random.choice(NAMES[:4] if random.random() < 0.7 else NAMES)
        steps.append(
            random.choices(
                [Name(name), Each(), Index(random.choice([0, 0, 1, 2, 3])), Descend(name)], [4, 3, 1, 1]
            )[0]
        )
    return Mark(tuple(steps))


def marks(random):
    if random.random() < 0.2:
        return [Mark((Descend(random.choice(NAMES)),)) for _ in range(random.randint(1, 2))]
    return [mark(random) for _ in range(random.choice([1, 1, 2, 3]))]


SIMPLE = ["ssn", "a", "b", "x-1", "Id_2"]


def simple_marks(random):
    """Marks of names and `[*]`: what most people write."""
    if random.random() < 0.15:  # one name at the end of several ways
        last, *others = random.sample(SIMPLE, len(SIMPLE))
        ways = [()]
        for name in others:
            ways.append((*random.choice(ways), Name(name)))
        return [Mark((*way, Name(last))) for way in random.sample(ways[1:], random.choice([2, 3]))]
    found = []
    for _ in range(random.choice([1, 1, 2, 3])):
        steps = [
            Each() if random.random() < 0.3 else Name(random.choice(SIMPLE))
            for _ in range(random.choice([0, 1, 1, 2, 3]))
        ]
        found.append(Mark((*steps, Name(random.choice(SIMPLE)))))
    return found


def along(random, steps, spoiled):
    """A value that has what the steps of a mark lead to, as a rule; `spoiled` is how often not so."""
    if not steps:
        return value(random, random.choice([0, 0, 0, 1]), narrow=False)
    if random.random() < spoiled:
        return value(random, 2, narrow=False)
    w = lambda: ws(random)  # noqa: E731
    match steps[0]:
        case Name(name) | Descend(name):
            names = random.sample(SIMPLE + NAMES[3:8], random.randint(0, 3))
            names = [other for other in names if other != name or random.random() < spoiled]
            members = [(other, value(random, random.choice([0, 0, 1]), narrow=False)) for other in names]
            for _ in range(2 if random.random() < spoiled / 2 else random.random() > 0.15):
                members.insert(random.randint(0, len(members)), (name, along(random, steps[1:], spoiled)))
            # Most names are written as they are.
            write = string if random.random() < spoiled else lambda _, name: json.dumps(name)
            inner = ",".join(f"{w()}{write(random, name)}{w()}:{w()}{one}{w()}" for name, one in members)
            return "{" + inner + "}"
        case _:
            ones = [along(random, steps[1:], spoiled) for _ in range(random.choice([0, 1, 2, 4]))]
            if random.random() < 0.1:
                inner = ",".join(f"{json.dumps(name)}:{one}" for name, one in zip("abcd", ones, strict=False))
                return "{" + inner + "}"
            between = random.choice([",", ", ", ",\n  "]) if random.random() < 0.8 else f"{w()},{w()}"
            return "[" + w() + between.join(ones) + w() + "]"


def merged(random, ones):
    """One object that has the members of several."""
    inner = [one.strip()[1:-1].strip() for one in ones if one.strip().startswith("{")]
    random.shuffle(inner)
    return "{" + ",".join(part for part in inner if part) + "}"


def woven(random, ways):
    """One object in which ways of names lead to a value each, through whatever they have in common."""
    if () in ways:
        return value(random, 0, narrow=False)
    names = list({way[0].name: None for way in ways})
    random.shuffle(names)
    inner = (
        f"{json.dumps(name)}:{woven(random, [way[1:] for way in ways if way[0].name == name])}"
        for name in names
    )
    return "{" + ",".join(inner) + "}"


def any_document(random, marks):
    """A document of any kind, most of them small and such that the marks hit something."""
    kind = random.random()
    if kind < 0.2 and all(isinstance(step, Name) for mark in marks for step in mark.steps):
        return woven(random, [mark.steps for mark in marks]).encode("utf-8")
    if kind < 0.6:
        spoiled = random.choice([0, 0, 0.1, 0.3])
        ones = [along(random, mark.steps, spoiled) for mark in marks]
        bom = "\ufeff" if random.random() < 0.02 else ""
        text = bom + ws(random) + (merged(random, ones) if len(ones) > 1 else ones[0]) + ws(random)
        return text.encode("utf-8")
    if kind < 0.9:
        return document(random)
    if kind < 0.985:
        return broken(random, document(random))
    levels = random.choice([180, 199, 200, 201, 202, 230, 1500])
    opening, closing = random.choice([("[", "]"), ('{"a":', "}"), ('["]",', "]")])
    inner = along(random, marks[0].steps[-1:], 0)
    deep = opening * levels + random.choice(["0", inner, '"\\\\"']) + closing * levels
    return random.choice([deep, '{"ssn":1,"a":' + deep + "}"]).encode("utf-8")
