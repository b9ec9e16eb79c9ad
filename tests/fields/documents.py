"""Random JSON texts, spelled in every way that the grammar leaves open, and marks that may hit them."""

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
