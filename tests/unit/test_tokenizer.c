/* test_tokenizer - merges, added tokens and what a file says of them, over vocabularies made here.
 *
 * Refusals, memory and time are in test_tokenizer_limits.c, ids of the real model in tests/golden/test_tokenizer.c.
 */
#include "tests/support/made_vocab.h"
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/base/vec.h"

#include <string.h>

/* The ids of text as "1 2 3". */
static const char *ids_of(const struct tokenizer *t, const char *text, size_t n, bool special)
{
    static char out[1024];
    struct token_ids ids = {0};
    struct err e = {0};
    ck_assert_msg(tokenizer_encode(t, text, n, special, &ids, &e) == 0, "%s", e.text);
    out[0] = 0;
    for (size_t i = 0; i < ids.n; i++)
        snprintf(out + strlen(out), sizeof out - strlen(out), "%s%d", i ? " " : "", ids.ids[i]);
    free(ids.ids);
    return out;
}

#define ck_ids(t, text, special, want) ck_assert_str_eq(ids_of(t, text, sizeof(text) - 1, special), want)

/* ---- merges ---- */

START_TEST(test_merges_go_by_rank_then_from_the_left)
{
    static struct made m;
    m = (struct made){.n = 0};
    made_bytes(&m);
    int32_t bc = made_merge(&m, "b", "c"), ab = made_merge(&m, "a", "b"), aa = made_merge(&m, "a", "a");
    int32_t the = (made_merge(&m, "\u0120", "t"), made_merge(&m, "\u0120t", "h"));
    struct tokenizer *t = made_open(&m, "gpt2");
    char want[64];
    snprintf(want, sizeof want, "97 %d", bc);
    ck_ids(t, "abc", false, want);
    snprintf(want, sizeof want, "%d %d", ab, ab);
    ck_ids(t, "abab", false, want);
    snprintf(want, sizeof want, "%d %d 97", aa, aa);
    ck_ids(t, "aaaaa", false, want);
    snprintf(want, sizeof want, "120 %d", the);
    ck_ids(t, "x th", false, want);
    ck_ids(t, "", false, "");
    size_t n;
    ck_assert_mem_eq(tokenizer_token_bytes(t, the, &n), " th", 3);
    ck_assert_uint_eq(n, 3);
    ck_assert_int_eq(tokenizer_find(t, " th", 3), the);
    ck_assert_int_eq(tokenizer_find(t, "zz", 2), -1);
    tokenizer_close(t);
}
END_TEST

/* The rule as it is told: of all neighbours the pair of lowest rank, leftmost, again and again. parts are strings. */
static size_t naive_merge(const struct made *m, char (*part)[64], size_t n)
{
    for (;;) {
        size_t best_rank = m->n_merges, at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            char pair[130];
            snprintf(pair, sizeof pair, "%.63s %.63s", part[i], part[i + 1]);
            size_t rank = 0;
            while (rank < best_rank && strcmp(m->merge[rank], pair) != 0)
                rank++;
            if (rank < best_rank) {
                best_rank = rank;
                at = i;
            }
        }
        if (best_rank == m->n_merges)
            return n;
        char whole[130];
        snprintf(whole, sizeof whole, "%.63s%.63s", part[at], part[at + 1]);
        snprintf(part[at], sizeof *part, "%.63s", whole);
        memmove(part + at + 1, part + at + 2, (n - at - 2) * sizeof *part);
        n--;
    }
}

/* Random rules over a..d, each of which makes a token of its own, in random order of rank. */
static void make_rules(struct made *m, uint64_t *seed)
{
    m->n = m->n_merges = 0;
    made_bytes(m);
    char made_of[64][64];
    size_t n = 4;
    for (size_t i = 0; i < 4; i++)
        snprintf(made_of[i], sizeof made_of[0], "%c", (char)('a' + i));
    for (int i = 0; i < 30; i++) {
        char whole[128];
        const char *left = made_of[rng_next(seed) % n], *right = made_of[rng_next(seed) % n];
        snprintf(whole, sizeof whole, "%s%s", left, right);
        bool known = strlen(whole) > 10;
        for (size_t k = 0; k < n; k++)
            known |= strcmp(made_of[k], whole) == 0;
        if (known)
            continue;
        made_merge(m, left, right);
        snprintf(made_of[n++], sizeof made_of[0], "%.63s", whole);
    }
    for (size_t i = m->n_merges; i > 1; i--) {
        char tmp[64];
        size_t k = rng_next(seed) % i;
        memcpy(tmp, m->merge[i - 1], sizeof tmp);
        memcpy(m->merge[i - 1], m->merge[k], sizeof tmp);
        memcpy(m->merge[k], tmp, sizeof tmp);
    }
}

START_TEST(test_random_rules_merge_as_the_definition_says)
{
    uint64_t seed = unit_seed("rules");
    static struct made m;
    for (int set = 0; set < 60; set++) {
        make_rules(&m, &seed);
        struct tokenizer *t = made_open(&m, "gpt2");
        for (int round = 0; round < 50; round++) {
            char text[61], part[60][64], want[1024] = "";
            size_t n = 1 + rng_next(&seed) % 60;
            for (size_t i = 0; i < n; i++) {
                text[i] = (char)('a' + rng_next(&seed) % 4);
                snprintf(part[i], sizeof part[0], "%c", text[i]);
            }
            text[n] = 0;
            size_t left = naive_merge(&m, part, n);
            for (size_t i = 0; i < left; i++)
                snprintf(want + strlen(want), sizeof want - strlen(want), "%s%d", i ? " " : "",
                         tokenizer_find(t, part[i], strlen(part[i])));
            if (strcmp(ids_of(t, text, n, false), want) != 0)
                ck_abort_msg("set %d: '%s' gives %s, not %s", set, text, ids_of(t, text, n, false), want);
        }
        tokenizer_close(t);
    }
}
END_TEST

/* " " and 1 to 20 letters: short ones come again, long ones do not fit into the table of what is known. */
static size_t draw_word(uint64_t *seed, char *out)
{
    size_t n = 1 + rng_next(seed) % (rng_next(seed) % 4 ? 5 : 20);
    out[0] = ' ';
    for (size_t i = 1; i <= n; i++)
        out[i] = (char)('a' + rng_next(seed) % 4);
    return n + 1;
}

START_TEST(test_words_of_a_long_text_have_the_ids_that_they_have_alone)
{
    enum { WORDS = 20000 };
    uint64_t seed = unit_seed("words");
    static struct made m;
    static char text[WORDS * 21];
    for (int set = 0; set < 5; set++) {
        struct token_ids whole = {0}, alone = {0};
        struct err e = {0};
        size_t n = 0;
        make_rules(&m, &seed);
        struct tokenizer *t = made_open(&m, "gpt2");
        for (int i = 0; i < WORDS; i++) {
            size_t len = draw_word(&seed, text + n);
            ck_assert_msg(tokenizer_encode(t, text + n, len, false, &alone, &e) == 0, "%s", e.text);
            n += len;
        }
        ck_assert_msg(tokenizer_encode(t, text, n, false, &whole, &e) == 0, "%s", e.text);
        ck_assert_uint_eq(whole.n, alone.n);
        ck_assert_mem_eq(whole.ids, alone.ids, whole.n * sizeof *whole.ids);
        free(whole.ids);
        free(alone.ids);
        tokenizer_close(t);
    }
}
END_TEST

START_TEST(test_a_byte_without_a_token_gives_nothing_and_its_neighbours_merge)
{
    static struct made m;
    m = (struct made){.n = 0};
    made_token(&m, "a", 1);
    made_token(&m, "!", 1);
    made_merge(&m, "!", "!");
    struct tokenizer *t = made_open(&m, "gpt2");
    ck_ids(t, "a\x04\x06", false, "0");
    ck_ids(t, "!\x04!", false, "2");
    ck_ids(t, "\x04", false, "");
    tokenizer_close(t);
}
END_TEST

START_TEST(test_a_token_outside_the_alphabet_keeps_its_text_and_is_never_merged_into)
{
    static const char *const odd[] = {"\u65e5", "a b", "\u00ad", "\u0144", "\u0120\u65e5"};
    static struct made m;
    m = (struct made){.n = 0};
    made_bytes(&m);
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        made_token(&m, odd[i], 1);
    struct tokenizer *t = made_open(&m, "gpt2");
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        size_t n;
        const char *bytes = tokenizer_token_bytes(t, 256 + (int32_t)i, &n);
        ck_assert_uint_eq(n, strlen(odd[i]));
        ck_assert_mem_eq(bytes, odd[i], n);
        ck_assert_int_eq(tokenizer_find(t, odd[i], n), 256 + (int32_t)i);
    }
    char want[64];
    snprintf(want, sizeof want, "%d %d", 0xC2, 0xAD);
    ck_ids(t, "\u00ad", true, want);
    tokenizer_close(t);
}
END_TEST

/* ---- added tokens ---- */

START_TEST(test_control_text_is_control_only_where_special_is_asked_for)
{
    static struct made m;
    m = (struct made){.n = 0};
    made_bytes(&m);
    made_token(&m, "<|im_end|>", 3); /* 256 */
    made_token(&m, "<u>", 4);        /* 257: user-defined */
    made_token(&m, "<unk>", 2);      /* 258 */
    made_token(&m, "[PAD]", 5);      /* 259: unused */
    struct tokenizer *t = made_open(&m, "gpt2");
    ck_ids(t, "a<|im_end|>b", true, "97 256 98");
    ck_ids(t, "<|im_end|><|im_end|>", true, "256 256");
    ck_ids(t, "<|im_end|>", false, "60 124 105 109 95 101 110 100 124 62");
    ck_ids(t, "<|im_end", true, "60 124 105 109 95 101 110 100");
    ck_ids(t, "<|im_<u>end|>", false, "60 124 105 109 95 257 101 110 100 124 62");
    ck_ids(t, "<u>", true, "257");
    ck_ids(t, "<unk>", true, "258");
    ck_ids(t, "<unk>", false, "60 117 110 107 62");
    ck_ids(t, "[PAD]", true, "91 80 65 68 93");
    ck_assert(tokenizer_is_special(t, 256) && tokenizer_is_special(t, 258));
    ck_assert(!tokenizer_is_special(t, 257) && !tokenizer_is_special(t, 97));
    ck_assert(!tokenizer_is_special(t, -1) && !tokenizer_is_special(t, 260));
    ck_assert_int_eq(tokenizer_find(t, "<|im_end|>", 10), 256);
    tokenizer_close(t);
}
END_TEST

START_TEST(test_of_added_tokens_the_leftmost_then_the_longest_is_found)
{
    static struct made m;
    m = (struct made){.n = 0};
    made_bytes(&m);
    made_token(&m, "<a>", 3);      /* 256 */
    made_token(&m, "<a><b>", 3);   /* 257 */
    made_token(&m, "><b>xyz", 3);  /* 258 */
    made_token(&m, "<a><b>xq", 3); /* 259 */
    made_token(&m, "x", 4);        /* 260 */
    struct tokenizer *t = made_open(&m, "gpt2");
    ck_ids(t, "<a>", true, "256");
    ck_ids(t, "<a><b>xyz", true, "257 260 121 122");
    ck_ids(t, "<a><b>xq", true, "259");
    ck_ids(t, "-><b>xyz", true, "45 258");
    size_t len = 0;
    ck_assert_int_eq(tokenizer_match_special(t, "<a><b>x", 7, &len), 257);
    ck_assert_uint_eq(len, 6);
    ck_assert_int_eq(tokenizer_match_special(t, "<a", 2, &len), -1);
    ck_assert_int_eq(tokenizer_match_special(t, " <a>", 4, &len), -1);
    ck_assert_int_eq(tokenizer_match_special(t, "", 0, &len), -1);
    tokenizer_close(t);
}
END_TEST

START_TEST(test_typed_text_never_merges_into_a_control_token)
{
    static struct made m;
    m = (struct made){.n = 0};
    made_bytes(&m);
    made_token(&m, "<|>", 3); /* 256 */
    made_merge(&m, "<", "|"); /* 257 */
    ck_assert_int_eq(made_merge(&m, "<|", ">"), 256);
    m.type[65] = 3; /* the byte A is control: it can't be typed either */
    struct tokenizer *t = made_open(&m, "gpt2");
    ck_ids(t, "<|>", false, "257 62");
    ck_ids(t, "<|>A", true, "256 65");
    ck_ids(t, "BA", false, "66");
    tokenizer_close(t);
}
END_TEST

START_TEST(test_bad_utf8_is_encoded_as_replacement_characters)
{
    struct tokenizer *t;
    struct err e = {0};
    ck_assert_int_eq(tokenizer_open_bytes(&t, 260, &e), 0);
    ck_ids(t, "a\xFF", false, "97 239 191 189");
    ck_ids(t, "\xE2\x82z\xF0\x9F\x98", false, "239 191 189 122 239 191 189");
    ck_ids(t, "\xE2\x82\xAC", false, "226 130 172");
    tokenizer_close(t);
}
END_TEST

/* ---- queries ---- */

static bool ends(const struct tokenizer *t, int32_t id)
{
    size_t n;
    const int32_t *eog = tokenizer_eog(t, &n);
    for (size_t i = 0; i < n; i++)
        if (eog[i] == id)
            return true;
    return false;
}

START_TEST(test_generation_ends_at_what_the_file_names_and_at_known_names)
{
    static struct made m;
    m = (struct made){.n = 0};
    made_bytes(&m);
    int32_t im_end = made_token(&m, "<|im_end|>", 4), text_end = made_token(&m, "<|endoftext|>", 3);
    int32_t other = made_token(&m, "<stop>", 3), plain = made_token(&m, "<end_of_turn>", 1);
    made_merge(&m, "<", "/");
    made_merge(&m, "</", "s");
    int32_t html = made_merge(&m, "</s", ">"); /* ordinary text: merges build it */
    struct gguf_write *w = calloc(1, sizeof *w);
    struct tokenizer *t;
    struct err e = {0};
    gguf_write_text(w, "tokenizer.ggml.model", "gpt2");
    gguf_write_text(w, "tokenizer.ggml.pre", "smollm");
    made_lists(&m, w);
    gguf_write_int(w, "tokenizer.ggml.bos_token_id", GGUF_U32, 65);
    gguf_write_int(w, "tokenizer.ggml.eos_token_id", GGUF_U32, (uint64_t)other);
    gguf_write_int(w, "tokenizer.ggml.eot_token_id", GGUF_U32, 66);
    gguf_write_int(w, "tokenizer.ggml.add_bos_token", GGUF_BOOL, 1);
    ck_assert_msg(made_open_file(w, &t, &e) == 0, "%s", e.text);
    free(w);
    ck_assert_int_eq(tokenizer_bos(t), 65);
    ck_assert_int_eq(tokenizer_eos(t), other);
    ck_assert(tokenizer_add_bos(t));
    ck_assert_int_eq(tokenizer_vocab(t), (int32_t)m.n);
    ck_assert(ends(t, im_end) && ends(t, text_end) && ends(t, other) && ends(t, plain) && ends(t, 66));
    ck_assert(!ends(t, html) && !ends(t, 65) && !ends(t, -1));
    ck_assert(tokenizer_is_special(t, im_end) && tokenizer_is_special(t, plain) && !tokenizer_is_special(t, html));
    ck_ids(t, "<|im_end|>", true, "256"); /* the name made it control, whatever its type in the file */
    ck_ids(t, "<|im_end|>", false, "60 124 105 109 95 101 110 100 124 62");
    tokenizer_close(t);
}
END_TEST

START_TEST(test_the_byte_tokenizer_is_what_the_header_says)
{
    struct tokenizer *t;
    struct err e = {0};
    size_t n;
    ck_assert_int_eq(tokenizer_open_bytes(&t, 259, &e), -EINVAL);
    ck_assert_int_eq(tokenizer_open_bytes(&t, 1000, &e), 0);
    ck_assert_int_eq(tokenizer_vocab(t), 1000);
    ck_assert_int_eq(tokenizer_eos(t), 256);
    ck_assert_int_eq(tokenizer_bos(t), -1);
    ck_assert(!tokenizer_add_bos(t));
    ck_assert(ends(t, 256) && ends(t, 258) && !ends(t, 257) && !ends(t, 259));
    for (int32_t id = 0; id < 256; id++) {
        ck_assert_int_eq((uint8_t)tokenizer_token_bytes(t, id, &n)[0], id);
        ck_assert_uint_eq(n, 1);
    }
    ck_assert_int_eq(tokenizer_find(t, "<pad>", 5), 259);
    ck_assert_ptr_nonnull(tokenizer_token_bytes(t, 999, &n));
    ck_assert_uint_eq(n, 0);
    ck_assert_ptr_null(tokenizer_token_bytes(t, 1000, &n));
    ck_assert_ptr_null(tokenizer_token_bytes(t, -1, &n));
    ck_ids(t, "<|im_start|>u 12<|im_end|>", true, "257 117 32 49 50 258");
    tokenizer_close(t);
}
END_TEST

UNIT_MAIN("tokenizer", test_merges_go_by_rank_then_from_the_left, test_random_rules_merge_as_the_definition_says,
          test_words_of_a_long_text_have_the_ids_that_they_have_alone,
          test_a_byte_without_a_token_gives_nothing_and_its_neighbours_merge,
          test_a_token_outside_the_alphabet_keeps_its_text_and_is_never_merged_into,
          test_control_text_is_control_only_where_special_is_asked_for,
          test_of_added_tokens_the_leftmost_then_the_longest_is_found,
          test_typed_text_never_merges_into_a_control_token, test_bad_utf8_is_encoded_as_replacement_characters,
          test_generation_ends_at_what_the_file_names_and_at_known_names,
          test_the_byte_tokenizer_is_what_the_header_says)
