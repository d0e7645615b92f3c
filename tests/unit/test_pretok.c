/* test_pretok - where the pre-tokenizers cut, by example. All characters are in tests/golden/test_tokenizer.c. */
#include "tests/support/unit.h"

#include "engine/text/pretok.h"

#include <string.h>

/* `pieces` has '|' where a cut must be. */
static void check_pieces(enum pretok kind, const char *pieces)
{
    char text[256] = "", got[256] = "";
    for (const char *p = pieces; *p; p++)
        if (*p != '|')
            strncat(text, p, 1);
    for (size_t i = 0, len; i < strlen(text); i += len) {
        len = pretok_next(kind, text + i, strlen(text) - i);
        ck_assert_uint_ge(len, 1);
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%.*s", i ? "|" : "", (int)len, text + i);
    }
    ck_assert_str_eq(got, pieces);
}

START_TEST(test_gpt2_cuts_words_numbers_signs_and_space)
{
    static const char *const rows[] = {
        "Hello| world|!",
        "it|'s| they|'ve| I|'ll| we|'re| he|'d| I|'m| don|'t",
        "IT|'|S| x|''|s| '|s",
        "can|''|t|'",
        "a|  | b|\n|\n|c|\n",
        "  | a",
        "a|   ",
        "x|\t|y|\t\t",
        "tab|\t| z",
        "12|ab|34| 567|.|8",
        "a|\u00a0|\u00a0|b",
        "\u00a0|\u00a0|b",
        "na\u00efve| \u0441\u043b\u043e\u0432\u043e|\uff01",
        "e|\u0301|e",
        "\u4e2d\u6587|\u3002|\u00bd\u00b2\u2167",
        " \n| a",
        "!?| ..| #",
        "\u180e",
        "a|\u200b|b",
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_pieces(PRETOK_GPT2, rows[i]);
}
END_TEST

START_TEST(test_smollm_cuts_each_digit_out_first)
{
    static const char *const rows[] = {
        "1|2|a|3|.|5", " |1| |2", "a|  |1", "a|  | b", "\n\n|7", "\u00bd|\u0663|x", "'|5|s", "9|'s", "a|!|0|!",
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_pieces(PRETOK_SMOLLM, rows[i]);
}
END_TEST

START_TEST(test_a_digit_that_only_one_table_knows_is_cut_as_the_reference_does)
{
    /* U+11DE0 came with Unicode 17: a digit to Digits, no number to ByteLevel */
    check_pieces(PRETOK_SMOLLM, "!|\U00011DE0|!");
    check_pieces(PRETOK_GPT2, "!\U00011DE0!");
}
END_TEST

UNIT_MAIN("pretok", test_gpt2_cuts_words_numbers_signs_and_space, test_smollm_cuts_each_digit_out_first,
          test_a_digit_that_only_one_table_knows_is_cut_as_the_reference_does)
