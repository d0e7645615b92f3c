/* test_detok - a stream of tokens comes out in whole characters, and as the decode of all its bytes. */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/base/utf8.h"
#include "engine/text/tokenizer.h"

#include <string.h>

static struct tokenizer *open_bytes(void)
{
    struct tokenizer *t;
    struct err e = {0};
    ck_assert_msg(tokenizer_open_bytes(&t, 300, &e) == 0, "%s", e.text);
    return t;
}

/* What each of n bytes, pushed as a token of its own, adds: pieces with '|' between, the end of the stream included. */
static const char *pieces(const struct tokenizer *t, const char *bytes, size_t n)
{
    static char all[512];
    struct detok d = {0};
    struct str out = {0};
    all[0] = 0;
    for (size_t i = 0; i <= n; i++) {
        if (out.data)
            str_cut(&out, 0);
        if (i < n)
            detok_push(&d, t, (uint8_t)bytes[i], true, &out);
        else
            detok_finish(&d, &out);
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", str_text(&out), i < n ? "|" : "");
    }
    str_fini(&out);
    return all;
}

#define R                      UTF8_REPLACEMENT_TXT
#define ck_pieces(bytes, want) ck_assert_str_eq(pieces(t, bytes, sizeof(bytes) - 1), want)

START_TEST(test_a_character_comes_out_with_its_last_byte)
{
    struct tokenizer *t = open_bytes();
    ck_pieces("a\xC3\xA9", "a||\u00e9|");
    ck_pieces("\xF0\x9F\x98\x80!", "|||\U0001F600|!|");
    ck_pieces("\xE2\x82\xAC\xE2\x82\xAC", "||\u20ac|||\u20ac|");
    tokenizer_close(t);
}
END_TEST

START_TEST(test_what_can_never_be_valid_comes_out_at_once_as_one_replacement)
{
    struct tokenizer *t = open_bytes();
    ck_pieces("\xFF"
              "a",
              R "|a|");
    ck_pieces("\xE2\x82"
              "a",
              "||" R "a|");
    ck_pieces("\xE2\x82\xE2\x82\xAC", "||" R "||\u20ac|");
    ck_pieces("\xE0\x80\xBF", "|" R R "|" R "|");
    ck_pieces("\xF0\x9F\x98", "|||" R);
    ck_pieces("\xED\xA0\x80", "|" R R "|" R "|");
    ck_pieces("\xF4\x90\x80\x80", "|" R R "|" R "|" R "|");
    ck_pieces("\xF1\x80\x80\x41", "|||" R "A|");
    tokenizer_close(t);
}
END_TEST

START_TEST(test_control_tokens_come_out_only_when_asked_for)
{
    struct tokenizer *t = open_bytes();
    static const int32_t ids[] = {257, 'h', 'i', 258, 299, 4000, -1, 256};
    for (int skip = 0; skip < 2; skip++) {
        struct detok d = {0};
        struct str out = {0};
        for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
            detok_push(&d, t, ids[i], skip, &out);
        detok_finish(&d, &out);
        ck_assert_str_eq(str_text(&out), skip ? "hi" : "<|im_start|>hi<|im_end|><|endoftext|>");
        str_fini(&out);
    }
    tokenizer_close(t);
}
END_TEST

START_TEST(test_a_control_token_within_a_character_breaks_it_or_is_not_seen)
{
    struct tokenizer *t = open_bytes();
    static const int32_t ids[] = {0xC3, 258, 0xA9};
    for (int skip = 0; skip < 2; skip++) {
        struct detok d = {0};
        struct str out = {0};
        for (size_t i = 0; i < 3; i++)
            detok_push(&d, t, ids[i], skip, &out);
        detok_finish(&d, &out);
        ck_assert_str_eq(str_text(&out), skip ? "\u00e9" : R "<|im_end|>" R);
        str_fini(&out);
    }
    tokenizer_close(t);
}
END_TEST

/* Could b[0..n) be the start (or all) of a well-formed sequence? Read off table 3-7 of the standard. */
static bool is_start(const uint8_t *b, size_t n)
{
    static const uint8_t rows[][8] = {
        {0x00, 0x7F},
        {0xC2, 0xDF, 0x80, 0xBF},
        {0xE0, 0xE0, 0xA0, 0xBF, 0x80, 0xBF},
        {0xE1, 0xEC, 0x80, 0xBF, 0x80, 0xBF},
        {0xED, 0xED, 0x80, 0x9F, 0x80, 0xBF},
        {0xEE, 0xEF, 0x80, 0xBF, 0x80, 0xBF},
        {0xF0, 0xF0, 0x90, 0xBF, 0x80, 0xBF, 0x80, 0xBF},
        {0xF1, 0xF3, 0x80, 0xBF, 0x80, 0xBF, 0x80, 0xBF},
        {0xF4, 0xF4, 0x80, 0x8F, 0x80, 0xBF, 0x80, 0xBF},
    };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        size_t i = 0;
        while (i < n && i < 4 && (i == 0 || rows[r][2 * i]) && b[i] >= rows[r][2 * i] && b[i] <= rows[r][2 * i + 1])
            i++;
        if (i == n)
            return true;
    }
    return false;
}

/* The decode of all bytes at once, by that definition alone. */
static void decode_whole(const uint8_t *b, size_t n, struct str *out)
{
    for (size_t i = 0; i < n;) {
        size_t len = 0;
        while (i + len < n && is_start(b + i, len + 1))
            len++;
        size_t whole = b[i] < 0x80 ? 1 : b[i] < 0xE0 ? 2 : b[i] < 0xF0 ? 3 : 4;
        if (len == whole)
            str_add(out, b + i, len);
        else
            str_puts(out, R);
        i += len ? len : 1;
    }
}

START_TEST(test_random_streams_are_whole_characters_and_the_decode_of_all_bytes)
{
    uint64_t seed = unit_seed("detok");
    struct tokenizer *t = open_bytes();
    static const uint8_t likely[] = {0x41, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF,
                                     0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF};
    for (int round = 0; round < 20000; round++) {
        uint8_t bytes[24];
        size_t n = rng_next(&seed) % sizeof bytes;
        struct detok d = {0};
        struct str out = {0}, want = {0};
        for (size_t i = 0; i < n; i++) {
            uint64_t r = rng_next(&seed);
            bytes[i] = r & 1 ? likely[(r >> 8) % sizeof likely] : (uint8_t)(r >> 8);
            size_t had = out.len;
            detok_push(&d, t, bytes[i], true, &out);
            if (!utf8_valid(str_text(&out) + had, out.len - had))
                ck_abort_msg("round %d: a piece is no whole text", round);
        }
        detok_finish(&d, &out);
        decode_whole(bytes, n, &want);
        if (strcmp(str_text(&out), str_text(&want)) != 0 || out.len != want.len)
            ck_abort_msg("round %d: '%s', not '%s'", round, str_text(&out), str_text(&want));
        str_fini(&out);
        str_fini(&want);
    }
    tokenizer_close(t);
}
END_TEST

UNIT_MAIN("detok", test_a_character_comes_out_with_its_last_byte,
          test_what_can_never_be_valid_comes_out_at_once_as_one_replacement,
          test_control_tokens_come_out_only_when_asked_for,
          test_a_control_token_within_a_character_breaks_it_or_is_not_seen,
          test_random_streams_are_whole_characters_and_the_decode_of_all_bytes)
