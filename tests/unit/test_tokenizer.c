/* test_tokenizer - merges, added tokens and every way to be refused, over vocabularies made here.
 *
 * Ids of the real model are in tests/golden/test_tokenizer.c.
 */
#include "tests/support/failing_malloc.h"
#include "tests/support/gguf_write.h"
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/base/utf8.h"
#include "engine/base/vec.h"
#include "engine/text/tokenizer.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

/* ---- vocabularies ---- */

#define MAX_TOKENS 1024

struct made { /* what goes into the file; tokens as the file writes them */
    char token[MAX_TOKENS][64];
    int32_t type[MAX_TOKENS];
    size_t n;
    char merge[MAX_TOKENS][64];
    size_t n_merges;
};

static int32_t add_token(struct made *m, const char *string, int32_t type)
{
    snprintf(m->token[m->n], sizeof m->token[0], "%s", string);
    m->type[m->n] = type;
    return (int32_t)m->n++;
}

/* Ids 0..255 are the bytes, written in GPT-2's alphabet: printable Latin-1 as it is, the rest from U+0100 on. */
static void add_bytes(struct made *m)
{
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; b++) {
        bool same = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        char s[5] = {0};
        utf8_put(s, same ? b : next++);
        add_token(m, s, 1);
    }
}

/* Both as the file writes them; the result becomes a token unless it is one. Returns its id. */
static int32_t add_merge(struct made *m, const char *left, const char *right)
{
    char whole[64];
    snprintf(m->merge[m->n_merges++], sizeof m->merge[0], "%s %s", left, right);
    snprintf(whole, sizeof whole, "%s%s", left, right);
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->token[i], whole) == 0)
            return (int32_t)i;
    return add_token(m, whole, 1);
}

static void write_lists(const struct made *m, struct gguf_write *w)
{
    const char *list[MAX_TOKENS];
    for (size_t i = 0; i < m->n; i++)
        list[i] = m->token[i];
    gguf_write_texts(w, "tokenizer.ggml.tokens", list, m->n);
    gguf_write_array(w, "tokenizer.ggml.token_type", GGUF_I32, m->type, m->n);
    for (size_t i = 0; i < m->n_merges; i++)
        list[i] = m->merge[i];
    gguf_write_texts(w, "tokenizer.ggml.merges", list, m->n_merges);
}

static int open_written(struct gguf_write *w, struct tokenizer **t, struct err *e)
{
    struct str bytes = {0};
    struct gguf *g;
    gguf_write_finish(w, &bytes);
    ck_assert_msg(gguf_open_memory(&g, bytes.data, bytes.len, e) == 0, "%s", e->text);
    int rc = tokenizer_open(t, g, e);
    gguf_close(g);
    memset(bytes.data, 0xDB, bytes.len); /* the tokenizer must not look at it any more */
    str_fini(&bytes);
    return rc;
}

static struct tokenizer *open_made(const struct made *m, const char *pre)
{
    struct gguf_write *w = calloc(1, sizeof *w);
    struct tokenizer *t;
    struct err e = {0};
    gguf_write_text(w, "tokenizer.ggml.model", "gpt2");
    gguf_write_text(w, "tokenizer.ggml.pre", pre);
    write_lists(m, w);
    ck_assert_msg(open_written(w, &t, &e) == 0, "%s", e.text);
    free(w);
    return t;
}

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
    add_bytes(&m);
    int32_t bc = add_merge(&m, "b", "c"), ab = add_merge(&m, "a", "b"), aa = add_merge(&m, "a", "a");
    int32_t the = (add_merge(&m, "\u0120", "t"), add_merge(&m, "\u0120t", "h"));
    struct tokenizer *t = open_made(&m, "gpt2");
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
    add_bytes(m);
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
        add_merge(m, left, right);
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
        struct tokenizer *t = open_made(&m, "gpt2");
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

START_TEST(test_a_byte_without_a_token_gives_nothing_and_its_neighbours_merge)
{
    static struct made m;
    m = (struct made){.n = 0};
    add_token(&m, "a", 1);
    add_token(&m, "!", 1);
    add_merge(&m, "!", "!");
    struct tokenizer *t = open_made(&m, "gpt2");
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
    add_bytes(&m);
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        add_token(&m, odd[i], 1);
    struct tokenizer *t = open_made(&m, "gpt2");
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
    add_bytes(&m);
    add_token(&m, "<|im_end|>", 3); /* 256 */
    add_token(&m, "<u>", 4);        /* 257: user-defined */
    add_token(&m, "<unk>", 2);      /* 258 */
    add_token(&m, "[PAD]", 5);      /* 259: unused */
    struct tokenizer *t = open_made(&m, "gpt2");
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
    add_bytes(&m);
    add_token(&m, "<a>", 3);      /* 256 */
    add_token(&m, "<a><b>", 3);   /* 257 */
    add_token(&m, "><b>xyz", 3);  /* 258 */
    add_token(&m, "<a><b>xq", 3); /* 259 */
    add_token(&m, "x", 4);        /* 260 */
    struct tokenizer *t = open_made(&m, "gpt2");
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
    add_bytes(&m);
    add_token(&m, "<|>", 3); /* 256 */
    add_merge(&m, "<", "|"); /* 257 */
    ck_assert_int_eq(add_merge(&m, "<|", ">"), 256);
    m.type[65] = 3; /* the byte A is control: it can't be typed either */
    struct tokenizer *t = open_made(&m, "gpt2");
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
    add_bytes(&m);
    int32_t im_end = add_token(&m, "<|im_end|>", 4), text_end = add_token(&m, "<|endoftext|>", 3);
    int32_t other = add_token(&m, "<stop>", 3), plain = add_token(&m, "<end_of_turn>", 1);
    add_merge(&m, "<", "/");
    add_merge(&m, "</", "s");
    int32_t html = add_merge(&m, "</s", ">"); /* ordinary text: merges build it */
    struct gguf_write *w = calloc(1, sizeof *w);
    struct tokenizer *t;
    struct err e = {0};
    gguf_write_text(w, "tokenizer.ggml.model", "gpt2");
    gguf_write_text(w, "tokenizer.ggml.pre", "smollm");
    write_lists(&m, w);
    gguf_write_int(w, "tokenizer.ggml.bos_token_id", GGUF_U32, 65);
    gguf_write_int(w, "tokenizer.ggml.eos_token_id", GGUF_U32, (uint64_t)other);
    gguf_write_int(w, "tokenizer.ggml.eot_token_id", GGUF_U32, 66);
    gguf_write_int(w, "tokenizer.ggml.add_bos_token", GGUF_BOOL, 1);
    ck_assert_msg(open_written(w, &t, &e) == 0, "%s", e.text);
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

/* ---- refusals ---- */

/* One fault per row: the key that is written otherwise (or not at all) and what the error must name. */
static int open_with_fault(const struct made *m, const char *key, int fault, struct err *e)
{
    struct gguf_write *w = calloc(1, sizeof *w);
    struct tokenizer *t = NULL;
    const char *const two[] = {"a b", "a"};
    const int32_t types[] = {1, 1};
    if (strcmp(key, "tokenizer.ggml.model") != 0)
        gguf_write_text(w, "tokenizer.ggml.model", "gpt2");
    if (strcmp(key, "tokenizer.ggml.pre") != 0)
        gguf_write_text(w, "tokenizer.ggml.pre", "gpt2");
    const char *list[MAX_TOKENS];
    for (size_t i = 0; i < m->n; i++)
        list[i] = m->token[i];
    if (strcmp(key, "tokenizer.ggml.tokens") != 0)
        gguf_write_texts(w, "tokenizer.ggml.tokens", list, m->n);
    if (strcmp(key, "tokenizer.ggml.merges") != 0)
        gguf_write_texts(w, "tokenizer.ggml.merges", list, 0);
    if (fault == 1)
        gguf_write_text(w, key, "sp\xFFm\n");
    else if (fault == 2)
        gguf_write_int(w, key, GGUF_U32, 1000000);
    else if (fault == 3)
        gguf_write_texts(w, key, two, 2);
    else if (fault == 4)
        gguf_write_array(w, key, GGUF_I32, types, 2);
    else if (fault == 5)
        gguf_write_texts(w, key, two, 0);
    else if (fault == 6)
        gguf_write_int(w, key, GGUF_BOOL, 1);
    else if (fault == 7)
        gguf_write_int(w, key, GGUF_I32, (uint64_t)-1);
    int rc = open_written(w, &t, e);
    tokenizer_close(t);
    free(w);
    return rc;
}

START_TEST(test_bad_metadata_is_refused_and_its_key_named)
{
    static struct made m;
    m = (struct made){.n = 0};
    add_bytes(&m);
    static const struct {
        const char *key;
        int fault, rc;
    } rows[] = {
        {"tokenizer.ggml.model", 0, -EINVAL},         {"tokenizer.ggml.model", 1, -ENOTSUP},
        {"tokenizer.ggml.model", 2, -EINVAL},         {"tokenizer.ggml.pre", 0, -EINVAL},
        {"tokenizer.ggml.pre", 1, -ENOTSUP},          {"tokenizer.ggml.tokens", 0, -EINVAL},
        {"tokenizer.ggml.tokens", 1, -EINVAL},        {"tokenizer.ggml.tokens", 4, -EINVAL},
        {"tokenizer.ggml.tokens", 5, -EINVAL},        {"tokenizer.ggml.token_type", 2, -EINVAL},
        {"tokenizer.ggml.token_type", 3, -EINVAL},    {"tokenizer.ggml.token_type", 4, -EINVAL},
        {"tokenizer.ggml.merges", 0, -EINVAL},        {"tokenizer.ggml.merges", 1, -EINVAL},
        {"tokenizer.ggml.merges", 3, -EINVAL},        {"tokenizer.ggml.merges", 4, -EINVAL},
        {"tokenizer.ggml.bos_token_id", 1, -EINVAL},  {"tokenizer.ggml.bos_token_id", 2, -EINVAL},
        {"tokenizer.ggml.eos_token_id", 7, -EINVAL},  {"tokenizer.ggml.eot_token_id", 2, -EINVAL},
        {"tokenizer.ggml.eom_token_id", 2, -EINVAL},  {"tokenizer.ggml.add_bos_token", 2, -EINVAL},
        {"tokenizer.ggml.add_bos_token", 6, -EINVAL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        int rc = open_with_fault(&m, rows[i].key, rows[i].fault, &e);
        ck_assert_msg(rc == rows[i].rc, "%s, fault %d: %d (%s)", rows[i].key, rows[i].fault, rc, e.text);
        ck_assert_msg(strncmp(e.text, rows[i].key, strlen(rows[i].key)) == 0, "'%s' does not begin with %s", e.text,
                      rows[i].key);
        for (const char *p = e.text; *p; p++)
            ck_assert_msg(*p >= 0x20 && *p < 0x7F, "the error shows bytes of the file");
    }
}
END_TEST

START_TEST(test_a_merge_of_or_into_no_token_is_refused)
{
    static const char *const bad[] = {"ab", "a ", " a", "a  b", "zz a", "a zz", "q w", "", " ", "a b c"};
    static struct made m;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct gguf_write *w = calloc(1, sizeof *w);
        struct tokenizer *t = NULL;
        struct err e = {0};
        m = (struct made){.n = 0};
        add_bytes(&m);
        add_merge(&m, "a", "b");
        snprintf(m.merge[m.n_merges++], sizeof m.merge[0], "%s", bad[i]);
        gguf_write_text(w, "tokenizer.ggml.model", "gpt2");
        gguf_write_text(w, "tokenizer.ggml.pre", "gpt2");
        write_lists(&m, w);
        ck_assert_msg(open_written(w, &t, &e) == -EINVAL, "'%s' was taken", bad[i]);
        ck_assert_ptr_null(t);
        ck_assert_ptr_nonnull(strstr(e.text, "merges: rule 1 "));
        free(w);
    }
}
END_TEST

/* ---- memory, stack, time ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MILLION 50000
#else
#define MILLION 1000000
#endif

static const char *const hostile[] = {"a", " ", "\n", "\u0301", "\u4e2d", "'", "<", "\xFF", "7"};

static void *encode_hostile(void *tokenizer)
{
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        size_t n = strlen(hostile[i]);
        char *text = malloc(n * MILLION);
        for (size_t k = 0; k < MILLION; k++)
            memcpy(text + k * n, hostile[i], n);
        struct token_ids ids = {0};
        struct err e = {0};
        int rc = tokenizer_encode(tokenizer, text, n * MILLION, true, &ids, &e);
        if (rc || ids.n == 0)
            ck_abort_msg("%zu: %s", i, e.text);
        free(text);
        free(ids.ids);
    }
    return NULL;
}

START_TEST(test_a_million_equal_characters_need_little_stack_and_no_quadratic_time)
{
    /* Quadratic time would be hours, and the test would be killed; the time itself is held in tests/golden. */
    static struct made m;
    m = (struct made){.n = 0};
    add_bytes(&m);
    for (int half = 1; half <= 16; half *= 2) {
        char a[17] = {0};
        memset(a, 'a', (size_t)half);
        add_merge(&m, a, a);
    }
    add_token(&m, "<<<<<<<<<<<<<<<<x", 3);
    struct tokenizer *t = open_made(&m, "smollm");
    pthread_attr_t small;
    pthread_t thread;
    ck_assert_int_eq(pthread_attr_init(&small), 0);
    ck_assert_int_eq(pthread_attr_setstacksize(&small, 64 * 1024), 0);
    ck_assert_int_eq(pthread_create(&thread, &small, encode_hostile, t), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&small);
    tokenizer_close(t);
}
END_TEST

START_TEST(test_any_allocation_may_fail)
{
    static struct made m;
    m = (struct made){.n = 0};
    add_bytes(&m);
    add_merge(&m, "a", "b");
    add_token(&m, "<|im_end|>", 3);
    struct gguf_write *w = calloc(1, sizeof *w);
    struct str bytes = {0};
    struct gguf *g;
    struct err e = {0};
    gguf_write_text(w, "tokenizer.ggml.model", "gpt2");
    gguf_write_text(w, "tokenizer.ggml.pre", "gpt2");
    write_lists(&m, w);
    gguf_write_finish(w, &bytes);
    ck_assert_int_eq(gguf_open_memory(&g, bytes.data, bytes.len, &e), 0);
    bool hit = true;
    for (unsigned long n = 1; hit; n++) {
        static const char text[] = "abababababababababababab\xFF<|im_end|>ab";
        struct tokenizer *t = NULL;
        struct token_ids ids = {0};
        fail_nth(n);
        int rc = tokenizer_open(&t, g, &e);
        if (!rc)
            rc = tokenizer_encode(t, text, sizeof text - 1, true, &ids, &e);
        hit = fail_stop() >= n;
        ck_assert_int_eq(rc, hit ? -ENOMEM : 0);
        ck_assert_uint_eq(ids.n, hit ? 0 : 17);
        free(ids.ids);
        tokenizer_close(t);
    }
    gguf_close(g);
    str_fini(&bytes);
    free(w);
}
END_TEST

UNIT_MAIN("tokenizer", test_merges_go_by_rank_then_from_the_left, test_random_rules_merge_as_the_definition_says,
          test_a_byte_without_a_token_gives_nothing_and_its_neighbours_merge,
          test_a_token_outside_the_alphabet_keeps_its_text_and_is_never_merged_into,
          test_control_text_is_control_only_where_special_is_asked_for,
          test_of_added_tokens_the_leftmost_then_the_longest_is_found,
          test_typed_text_never_merges_into_a_control_token, test_bad_utf8_is_encoded_as_replacement_characters,
          test_generation_ends_at_what_the_file_names_and_at_known_names,
          test_the_byte_tokenizer_is_what_the_header_says, test_bad_metadata_is_refused_and_its_key_named,
          test_a_merge_of_or_into_no_token_is_refused,
          test_a_million_equal_characters_need_little_stack_and_no_quadratic_time, test_any_allocation_may_fail)
