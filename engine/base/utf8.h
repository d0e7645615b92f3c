/* utf8 - one character in, one character out (RFC 3629; Unicode 15, table 3-7). Pure, MT-safe.
 *
 * Well-formed means: shortest form, no surrogates (U+D800..U+DFFF), nothing above U+10FFFF. Where text is not
 * well-formed, one step covers one maximal subpart (Unicode 15, section 3.9): whoever replaces puts one U+FFFD for it,
 * as Python, browsers and Hugging Face tokenizers do.
 */
#ifndef HEARTH_BASE_UTF8_H
#define HEARTH_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_REPLACEMENT     0xFFFDu
#define UTF8_REPLACEMENT_TXT "\xEF\xBF\xBD"
#define UTF8_BAD             0x110000u /* the bytes can't become a character, whatever follows */
#define UTF8_CUT             0x110001u /* the text ends within a character that is well-formed so far */

/* Decode the character that starts at p[0]; n >= 1 bytes are there. Returns the bytes it takes (1..4) with its code
 * point in *cp; or the bytes of the bad part (1..3) with UTF8_BAD or UTF8_CUT. Reads at most n bytes. */
static inline size_t utf8_next(const char *p, size_t n, uint32_t *cp)
{
    const uint8_t *s = (const uint8_t *)p;
    uint8_t c = s[0], low = 0x80, high = 0xBF; /* bounds of the next byte; the second has narrower ones */
    size_t len;
    if (c < 0x80) {
        *cp = c;
        return 1;
    } else if (c >= 0xC2 && c <= 0xDF) {
        len = 2;
    } else if (c >= 0xE0 && c <= 0xEF) {
        len = 3;
        low = c == 0xE0 ? 0xA0 : low;
        high = c == 0xED ? 0x9F : high;
    } else if (c >= 0xF0 && c <= 0xF4) {
        len = 4;
        low = c == 0xF0 ? 0x90 : low;
        high = c == 0xF4 ? 0x8F : high;
    } else {
        *cp = UTF8_BAD;
        return 1;
    }
    uint32_t v = c & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if (i == n || s[i] < low || s[i] > high) {
            *cp = i == n ? UTF8_CUT : UTF8_BAD;
            return i;
        }
        v = v << 6 | (s[i] & 0x3Fu);
        low = 0x80;
        high = 0xBF;
    }
    *cp = v;
    return len;
}

/* Encode a code point (at most 0x10FFFF, no surrogate); returns the bytes written, 1..4. */
static inline size_t utf8_put(char out[4], uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--, cp >>= 6)
        out[i] = (char)(0x80 | (cp & 0x3F));
    out[0] = (char)(0xF00u >> len | cp);
    return len;
}

/* Is all of p[0..n) well-formed? */
static inline bool utf8_valid(const char *p, size_t n)
{
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        i += utf8_next(p + i, n - i, &cp);
        if (cp >= UTF8_BAD)
            return false;
    }
    return true;
}

#endif
