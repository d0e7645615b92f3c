#!/usr/bin/env python3
"""make_jinja_unicode - print engine/text/jinja_unicode.h: what Python's str says of characters, asked of Python itself.

Templates were written for Python's strings, so its tables are the truth. By hand:
    python3 scripts/make_jinja_unicode.py >engine/text/jinja_unicode.h
"""
import platform
import unicodedata

CHARS = [chr(cp) for cp in range(0x110000) if not 0xD800 <= cp <= 0xDFFF]
BITS = [str.isalpha, str.isdecimal, str.isalnum, str.isupper, str.islower, lambda c: unicodedata.category(c) == "Lt",
        str.isprintable, str.isdigit]
MAPS = {"upper": str.upper, "lower": str.lower, "title": str.title}


def class_runs():
    last = None
    for c in CHARS:
        k = sum(is_(c) << i for i, is_ in enumerate(BITS))
        if k != last:
            yield f"0x{ord(c) << 8 | k:x}"
        last = k


def ranges(map_):
    """(first, last, step, delta) of the characters that map to one other: every step-th from first to last."""
    found = []
    for c in CHARS:
        to = map_(c)
        if len(to) != 1 or to == c:
            continue
        cp, delta = ord(c), ord(to) - ord(c)
        if found and found[-1][3] == delta:
            first, last, step, _ = found[-1]
            if cp - last <= 2 and step in (0, cp - last):
                found[-1] = (first, cp, cp - last, delta)
                continue
        found.append((cp, cp, 0, delta))
    for first, last, step, delta in found:
        yield f"{{0x{first:x}, 0x{last:x}, {step or 1}, {delta}}}"


def specials():
    for c in CHARS:
        for i, map_ in enumerate(MAPS.values()):
            to = map_(c)
            if len(to) > 1:
                yield f"{{0x{ord(c):x}, {i}, {{{', '.join(f'0x{ord(t):x}' for t in to)}}}}}"


def table(head, items):
    print(head + " = {")
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > 120:
            print(line)
            line = "   "
        line += f" {item},"
    print(line + "\n};")


print(f"""/* jinja_unicode - classes and case of characters as the str of Python {platform.python_version()} has them (Unicode {unicodedata.unidata_version}).
 *
 * Printed by scripts/make_jinja_unicode.py: do not edit.
 */
#ifndef HEARTH_TEXT_JINJA_UNICODE_H
#define HEARTH_TEXT_JINJA_UNICODE_H

#include <stdint.h>

/* clang-format off */
/* First code point << 8 | flags, which hold until the next entry: 1 alpha, 2 decimal, 4 alnum, 8 upper, 16 lower,
 * 32 title, 64 printable, 128 digit. */""")
table("static const uint32_t unicode_classes[]", class_runs())
print("""
struct unicode_range { /* every step-th character from first to last maps to itself + delta */
    uint32_t first, last;
    int32_t step, delta;
};""")
for name, map_ in MAPS.items():
    table(f"static const struct unicode_range unicode_{name}[]", ranges(map_))
print("""
/* What maps to several characters: to upper (0), lower (1), title case (2). */
static const struct unicode_special {
    uint16_t from, to, out[3];
} unicode_special[]""", end="")
table("", specials())
print("""/* clang-format on */

#endif""")
