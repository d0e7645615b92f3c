#!/usr/bin/env python3
"""make_charclass - print engine/text/charclass.h: the character classes of the pre-tokenizers, asked of the reference.

Hugging Face `tokenizers` is what models were trained with, and no library's tables equal its: release 0.23.3 follows
Unicode 16 in \\p{L}, \\p{N} and \\s (Oniguruma) and Unicode 17 in `Digits` (Rust). So each code point is put through its
pre-tokenizers and the class is read off the cut. By hand, in a throwaway venv:
    pip install tokenizers==0.23.3 && python scripts/make_charclass.py >engine/text/charclass.h
"""
import tokenizers
from tokenizers import pre_tokenizers

OTHER, LETTER, NUMBER, SPACE, DIGIT = range(5)
byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
digits = pre_tokenizers.Digits(individual_digits=True)


def first_cut(pre, text):
    return pre.pre_tokenize_str(text)[0][1][1]


def class_of(c):
    if first_cut(byte_level, "a" + c) == 2:
        return LETTER
    if first_cut(byte_level, "1" + c) == 2:
        return NUMBER
    if first_cut(byte_level, "!" + c) == 1:
        return SPACE
    return DIGIT if first_cut(digits, "a" + c) == 1 else OTHER


def runs():
    last = None
    for cp in range(0x110000):
        surrogate = 0xD800 <= cp <= 0xDFFF
        k = OTHER if surrogate else class_of(chr(cp))
        if not surrogate and (first_cut(digits, "a" + chr(cp)) == 1) != (k in (NUMBER, DIGIT)):
            raise SystemExit(f"U+{cp:04X}: Digits and ByteLevel differ in a way that has no class yet")
        if k != last:
            yield cp << 3 | k
        last = k


print(f"""/* charclass - runs of characters of one class, as Hugging Face tokenizers {tokenizers.__version__} sees them.
 *
 * Printed by scripts/make_charclass.py: do not edit. Each entry is first code point << 3 | class and holds until the
 * next one. Classes: 0 other, 1 \\p{{L}}, 2 \\p{{N}}, 3 \\s (White_Space), 4 other to ByteLevel but a digit to Digits.
 */
#ifndef HEARTH_TEXT_CHARCLASS_H
#define HEARTH_TEXT_CHARCLASS_H

#include <stdint.h>

/* clang-format off */
static const uint32_t charclass_runs[] = {{""")
line = "   "
for r in runs():
    item = f" 0x{r:x},"
    if len(line) + len(item) > 120:
        print(line)
        line = "   "
    line += item
print(line)
print("""};
/* clang-format on */

#endif""")
