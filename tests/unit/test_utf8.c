/* test_utf8 - every code point both ways, every short byte sequence against a second, naive rule. */
#include "tests/support/unit.h"

#include "engine/base/utf8.h"

#include <string.h>

START_TEST(test_utf8_every_code_point_comes_back)
{
    char b[4];
    uint32_t back;
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        if (cp >= 0xD800 && cp <= 0xDFFF)
            continue;
        size_t n = utf8_put(b, cp);
        if (utf8_next(b, n, &back) != n || back != cp)
            ck_abort_msg("U+%04X came back as U+%04X", cp, back);
        for (size_t cut = 1; cut < n; cut++)
            if (utf8_next(b, cut, &back) != cut || back != UTF8_CUT)
                ck_abort_msg("U+%04X: %zu of its bytes are no cut character", cp, cut);
    }
    ck_assert_uint_eq(utf8_put(b, UTF8_REPLACEMENT), 3);
    ck_assert_mem_eq(b, UTF8_REPLACEMENT_TXT, 3);
}
END_TEST

/* Is it well-formed? By value: decode without asking, then refuse long forms, surrogates and what is too big. */
static bool naive_valid(const uint8_t *s, size_t n)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = s[0] < 0x80 ? 1 : s[0] >> 5 == 6 ? 2 : s[0] >> 4 == 14 ? 3 : s[0] >> 3 == 30 ? 4 : 0;
    if (len != n)
        return false;
    uint32_t cp = len == 1 ? s[0] : s[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if (s[i] >> 6 != 2)
            return false;
        cp = cp << 6 | (s[i] & 0x3F);
    }
    return cp >= least[len] && cp <= 0x10FFFF && !(cp >= 0xD800 && cp <= 0xDFFF);
}

START_TEST(test_utf8_every_sequence_of_one_to_three_bytes_is_judged_as_its_value)
{
    for (uint32_t x = 0; x < 1u << 24; x++) {
        uint8_t s[3] = {(uint8_t)(x >> 16), (uint8_t)(x >> 8), (uint8_t)x};
        uint32_t cp;
        size_t took = utf8_next((const char *)s, 3, &cp);
        if (cp >= UTF8_BAD) {
            if (naive_valid(s, 1) || naive_valid(s, 2) || naive_valid(s, 3))
                ck_abort_msg("%02x %02x %02x refused", s[0], s[1], s[2]);
        } else if (!naive_valid(s, took)) {
            ck_abort_msg("%02x %02x %02x accepted", s[0], s[1], s[2]);
        }
    }
}
END_TEST

START_TEST(test_utf8_a_bad_part_is_as_long_as_unicode_says)
{
    static const struct {
        const char *bytes;
        size_t n, takes;
        uint32_t cp;
    } rows[] = {
        {"\x80", 1, 1, UTF8_BAD},
        {"\xC0\x80", 2, 1, UTF8_BAD},
        {"\xED\xA0\x80", 3, 1, UTF8_BAD},
        {"\xE1\x80\x41", 3, 2, UTF8_BAD},
        {"\xF0\x90\x80\x41", 4, 3, UTF8_BAD},
        {"\xF4\x90\x80\x80", 4, 1, UTF8_BAD},
        {"\xF5", 1, 1, UTF8_BAD},
        {"\xF0\x9F\x98", 3, 3, UTF8_CUT},
        {"\xE2", 1, 1, UTF8_CUT},
        {"\xE0\x80", 2, 1, UTF8_BAD},
        {"\xFF", 1, 1, UTF8_BAD},
        {"\xF0\x8F\xBF\xBF", 4, 1, UTF8_BAD},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t cp;
        ck_assert_msg(utf8_next(rows[i].bytes, rows[i].n, &cp) == rows[i].takes, "row %zu", i);
        ck_assert_msg(cp == rows[i].cp, "row %zu", i);
        ck_assert(!utf8_valid(rows[i].bytes, rows[i].n));
    }
    ck_assert(utf8_valid("a\0\xC3\xA9\xF0\x9F\x98\x80", 8));
}
END_TEST

UNIT_MAIN("utf8", test_utf8_every_code_point_comes_back,
          test_utf8_every_sequence_of_one_to_three_bytes_is_judged_as_its_value,
          test_utf8_a_bad_part_is_as_long_as_unicode_says)
