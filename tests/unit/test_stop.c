/* test_stop - stop strings against an obvious search over the whole text, whatever pieces it comes in. */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "server/stop.h"

#include <string.h>

/* Where the first stop string ends (the longest of those that end there); -1 = none. */
static int first_end(const struct stop_set *set, const char *text, size_t n, size_t *end)
{
    for (size_t e = 1; e <= n; e++) {
        int best = -1;
        for (size_t i = 0; i < set->n; i++)
            if (set->len[i] <= e && memcmp(text + e - set->len[i], set->text[i], set->len[i]) == 0 &&
                (best < 0 || set->len[i] > set->len[best]))
                best = (int)i;
        if (best >= 0) {
            *end = e;
            return best;
        }
    }
    return -1;
}

START_TEST(test_stop_agrees_with_a_search_over_the_whole)
{
    uint64_t rng = unit_seed("stop");
    int found_some = 0;
    for (int round = 0; round < 20000; round++) {
        char text[60], strings[4][6];
        struct stop_set set = {0};
        struct stop_scan scan = {0};
        struct str out = {0};
        size_t n = 1 + rng_next(&rng) % 59, end = 0;
        for (size_t i = 0; i < n; i++)
            text[i] = (char)('a' + rng_next(&rng) % 3);
        set.n = 1 + rng_next(&rng) % 4;
        for (size_t i = 0; i < set.n; i++) {
            set.len[i] = 1 + rng_next(&rng) % 6;
            for (size_t k = 0; k < set.len[i]; k++)
                strings[i][k] = (char)('a' + rng_next(&rng) % (set.len[i] > 3 ? 3 : 4));
            set.text[i] = strings[i];
            if (set.len[i] > set.longest)
                set.longest = set.len[i];
        }
        int want = first_end(&set, text, n, &end), got = -1;
        for (size_t at = 0; at < n && got < 0;) {
            size_t piece = 1 + rng_next(&rng) % 5;
            if (piece > n - at)
                piece = n - at;
            got = stop_push(&scan, &set, text + at, piece, &out);
            at += piece;
            if (got < 0) /* what is held could still become a stop string, and is shorter than the longest */
                ck_assert(out.len + scan.held.len == at && (scan.held.len == 0 || scan.held.len < set.longest));
        }
        if (got < 0)
            stop_flush(&scan, &out);
        ck_assert((got < 0) == (want < 0));
        size_t keep = want < 0 ? n : end - set.len[want];
        ck_assert_uint_eq(out.len, keep);
        ck_assert(memcmp(str_text(&out), text, keep) == 0);
        if (want >= 0)
            ck_assert(set.len[got] == set.len[want] && memcmp(set.text[got], set.text[want], set.len[got]) == 0);
        found_some += want >= 0;
        stop_fini(&scan);
        str_fini(&out);
    }
    ck_assert_int_gt(found_some, 2000);
    ck_assert_int_lt(found_some, 19000);
}
END_TEST

/* Text and strings that begin, end and contain each other, cut into three at each pair of places. */
START_TEST(test_stop_finds_the_same_wherever_the_text_is_cut)
{
    static const struct {
        const char *text, *strings[4];
        const char *out; /* what the client sees */
        int found;
    } cases[] = {
        {"one ab abc abcd", {"abcd", "abc"}, "one ab ", 1},
        {"one ab abd abcd", {"abcd", "bcd"}, "one ab abd ", 0}, /* both end there: the longest */
        {"one\n\nUser: hi", {"\n\nUser:", "\nUser:"}, "one", 0},
        {"aaaaaab", {"aaab"}, "aaa", 0},
        {"abababac", {"ababac"}, "ab", 0},
        {"caf\xc3\xa9 \xf0\x9f\x98\x80!", {"\xf0\x9f\x98\x80"}, "caf\xc3\xa9 ", 0},
        {"ends with a star", {"starts"}, "ends with a star", -1},
        {"stop", {"s", "stop"}, "", 0}, /* the earliest end */
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        size_t n = strlen(cases[k].text);
        struct stop_set set = {0};
        for (; set.n < 4 && cases[k].strings[set.n]; set.n++) {
            set.text[set.n] = cases[k].strings[set.n];
            set.len[set.n] = strlen(set.text[set.n]);
            set.longest = set.len[set.n] > set.longest ? set.len[set.n] : set.longest;
        }
        for (size_t i = 0; i <= n; i++)
            for (size_t j = i; j <= n; j++) {
                const size_t cuts[] = {0, i, j, n};
                struct stop_scan scan = {0};
                struct str out = {0};
                int found = -1;
                for (int piece = 0; piece < 3 && found < 0; piece++)
                    found = stop_push(&scan, &set, cases[k].text + cuts[piece], cuts[piece + 1] - cuts[piece], &out);
                if (found < 0)
                    stop_flush(&scan, &out);
                ck_assert_msg(found == cases[k].found && strcmp(str_text(&out), cases[k].out) == 0,
                              "case %zu cut at %zu and %zu: found %d, out \"%s\"", k, i, j, found, str_text(&out));
                stop_fini(&scan);
                str_fini(&out);
            }
    }
}
END_TEST

START_TEST(test_stop_without_strings_holds_nothing_back)
{
    struct stop_set set = {0};
    struct stop_scan scan = {0};
    struct str out = {0};
    ck_assert_int_eq(stop_push(&scan, &set, "abc", 3, &out), -1);
    ck_assert_str_eq(str_text(&out), "abc");
    str_fini(&out);
}
END_TEST

UNIT_MAIN("stop", test_stop_agrees_with_a_search_over_the_whole, test_stop_finds_the_same_wherever_the_text_is_cut,
          test_stop_without_strings_holds_nothing_back)
