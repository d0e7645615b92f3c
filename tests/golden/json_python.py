#!/usr/bin/env python3
"""Make json_doubles.txt and json_dumps.txt: what CPython prints (repr, json.dumps). Run by hand; any CPython >= 3.1 agrees.

json_doubles.txt   each line: the bits of a double in hex, its repr
json_dumps.txt     pairs of lines: a document, and json.dumps(json.loads(document), ensure_ascii=False)
"""
import json
import math
import os
import random
import struct

here = os.path.dirname(os.path.abspath(__file__))
rng = random.Random(1)


def bits(x):
    return struct.unpack("<Q", struct.pack("<d", x))[0]


def double(b):
    return struct.unpack("<d", struct.pack("<Q", b))[0]


def doubles():
    yield from [0.0, -0.0, 1.0, -1.0, 0.1, 0.5, 1e5, 1e15, 1e16, 1e17, 123456789012345.6, 1e-4, 1e-5, 9.999999999999999e15]
    yield from [5e-324, 1.5e-323, 2.2250738585072009e-308, 2.2250738585072014e-308, 1.7976931348623157e308]
    yield from [9007199254740992.0, 9007199254740994.0, 0.30000000000000004, 1 / 3, 2 / 3, 100.0, 1234.5, 5e15, 2.5e-5]
    for e in range(-1074, 1024):  # powers of two: the lower gap is half the upper one
        yield math.ldexp(1.0, e)
    for e in range(-20, 23):  # what probabilities and temperatures look like
        yield float(f"{rng.randrange(1, 1000)}e{e}")
    for _ in range(300):
        yield struct.unpack("<f", struct.pack("<f", -rng.expovariate(0.2)))[0]  # a float's log-probability
    for _ in range(800):
        b = rng.getrandbits(64)
        if math.isfinite(double(b)):
            yield double(b)
    for _ in range(100):
        yield double(rng.getrandbits(rng.randrange(1, 52)))  # subnormals


CHARS = ['"', "\\", "/", "\b", "\f", "\n", "\r", "\t", "\0", "\x1f", "\x7f", "a", "é", "€", "\u2028", "\ufeff", "\uffff", "😀"]
NUMBERS = ["0", "-0", "1", "-7", "2147483647", "2147483648", "-9223372036854775809", "10000000000000000999", "1.0", "-0.0",
           "0e5", "1e5", "1E+2", "1e16", "1e-5", "1.10", "1e999", "-1e999", "1e-999", "1.000000000000000005", "123.456e-7"]


def text():
    s = "".join(rng.choice(CHARS) for _ in range(rng.randrange(6)))
    return json.dumps(s, ensure_ascii=rng.random() < 0.5)


def blank():
    return rng.choice(["", "", "", " ", "\t", "\r"])


def document(depth):
    kind = rng.randrange(8 if depth else 5)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind == 2:
        return text()
    if kind == 3:
        return rng.choice(["true", "false", "null", "[]", "{}", "[ ]"])
    if kind == 4:
        return "[" + ",".join(blank() + str(rng.randrange(-99, 99999)) for _ in range(rng.randrange(1, 5))) + "]"
    n = rng.randrange(1, 5)
    if kind < 6:
        return "[" + ",".join(blank() + document(depth - 1) + blank() for _ in range(n)) + "]"
    keys = {json.loads(k): k for k in (text() for _ in range(n))}.values()
    return "{" + ",".join(blank() + k + blank() + ":" + blank() + document(depth - 1) for k in keys) + "}"


with open(os.path.join(here, "json_doubles.txt"), "w") as f:
    for x in doubles():
        f.write(f"{bits(x):x} {x!r}\n")
with open(os.path.join(here, "json_dumps.txt"), "w", encoding="utf-8", newline="") as f:
    for d in NUMBERS + [document(4) for _ in range(400)]:
        f.write(f"{d}\n{json.dumps(json.loads(d), ensure_ascii=False)}\n")
