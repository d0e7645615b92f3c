/* test_tokenizer (golden) - the ids that Hugging Face `tokenizers` gives for SmolLM2's vocabulary, text by text.
 *
 * tokenizer.bin and the texts are described in make_tokenizer.py; a text is made here by the same rule. Where a hash
 * differs the text is printed, so that the reference can be asked for it.
 */
#include "tests/support/gguf_write.h"
#include "tests/support/model.h"
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/base/utf8.h"
#include "engine/base/vec.h"
#include "engine/text/tokenizer.h"

#include <string.h>
#include <time.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
#define MILLION 50000 /* the clock of an instrumented program says nothing, */
#define STRIDE  16    /* and it is too slow for all code points */
#else
#define MILLION 1000000
#define STRIDE  1
#endif
#define RUN        3000
#define RULE_TEXTS 40

enum { FRAGMENTS, TEXTS, RUNS, CP_BLOCKS, VOCAB_BLOCKS, DECODES, RULE_SETS, N_COUNTS };

static struct {
    struct str file;
    uint32_t count[N_COUNTS];
    const char *fragment[4096];
    uint32_t fragment_len[4096];
    const char *texts, *runs, *code_points, *vocabulary, *decodes, *rule_sets; /* arrays of u32 */
} golden;

static uint32_t word(const char *array, size_t i)
{
    uint32_t x;
    memcpy(&x, array + 4 * i, 4);
    return x;
}

static void read_golden(void)
{
    FILE *f = fopen("tests/golden/tokenizer.bin", "rb");
    ck_assert_msg(f != NULL, "tests/golden/tokenizer.bin: run the test from the root of the repository");
    char buf[65536];
    for (size_t n; (n = fread(buf, 1, sizeof buf, f));)
        str_add(&golden.file, buf, n);
    fclose(f);
    ck_assert_mem_eq(golden.file.data, "HTK1", 4);
    const char *p = golden.file.data + 4;
    for (int i = 0; i < N_COUNTS; i++, p += 4)
        golden.count[i] = word(p, 0);
    ck_assert_uint_le(golden.count[FRAGMENTS], 4096);
    for (uint32_t i = 0; i < golden.count[FRAGMENTS]; i++) {
        golden.fragment_len[i] = word(p, 0);
        golden.fragment[i] = p + 4;
        p += 4 + golden.fragment_len[i];
    }
    golden.texts = p;
    golden.runs = golden.texts + 4 * 3 * (size_t)golden.count[TEXTS];
    golden.code_points = golden.runs + 4 * 2 * (size_t)golden.count[RUNS];
    golden.vocabulary = golden.code_points + 4 * 2 * (size_t)golden.count[CP_BLOCKS];
    golden.decodes = golden.vocabulary + 4 * (size_t)golden.count[VOCAB_BLOCKS];
    golden.rule_sets = golden.decodes + 4 * 2 * (size_t)golden.count[DECODES];
    ck_assert(golden.rule_sets < golden.file.data + golden.file.len);
}

/* ---- tokenizers ---- */

static struct tokenizer *smollm, *gpt2;

static struct tokenizer *open_made(const char *pre, const char *const *tokens, size_t n_tokens,
                                   const char *const *merges, size_t n_merges)
{
    struct gguf_write w = {0};
    struct str bytes = {0};
    struct gguf *g;
    struct tokenizer *t;
    struct err e = {0};
    gguf_write_text(&w, "tokenizer.ggml.model", "gpt2");
    gguf_write_text(&w, "tokenizer.ggml.pre", pre);
    gguf_write_texts(&w, "tokenizer.ggml.tokens", tokens, n_tokens);
    gguf_write_texts(&w, "tokenizer.ggml.merges", merges, n_merges);
    gguf_write_finish(&w, &bytes);
    ck_assert_msg(gguf_open_memory(&g, bytes.data, bytes.len, &e) == 0, "%s", e.text);
    ck_assert_msg(tokenizer_open(&t, g, &e) == 0, "%s", e.text);
    gguf_close(g);
    str_fini(&bytes);
    return t;
}

/* The strings under key, each and the list to be freed. */
static char **read_texts(const struct gguf *g, const char *key, size_t *n)
{
    const struct gguf_val *v = gguf_get(g, key);
    ck_assert_ptr_nonnull(v);
    char **texts = calloc((size_t)gguf_array_len(v), sizeof *texts);
    size_t cursor = 0, len;
    const char *s;
    for (*n = 0; (s = gguf_array_text(v, &cursor, &len)); (*n)++)
        texts[*n] = strndup(s, len);
    return texts;
}

static void free_texts(char **texts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(texts[i]);
    free(texts);
}

/* The same vocabulary and merges under another pre-tokenizer. */
static struct tokenizer *open_as(const struct gguf *g, const char *pre)
{
    size_t n_tokens, n_merges;
    char **tokens = read_texts(g, "tokenizer.ggml.tokens", &n_tokens);
    char **merges = read_texts(g, "tokenizer.ggml.merges", &n_merges);
    struct tokenizer *t = open_made(pre, (const char *const *)tokens, n_tokens, (const char *const *)merges, n_merges);
    free_texts(tokens, n_tokens);
    free_texts(merges, n_merges);
    return t;
}

static void setup(void)
{
    struct gguf *g;
    struct err e = {0};
    read_golden();
    ck_assert_msg(gguf_open(&g, model_path(), &e) == 0, "%s", e.text);
    ck_assert_msg(tokenizer_open(&smollm, g, &e) == 0, "%s", e.text);
    gpt2 = open_as(g, "gpt2");
    gguf_close(g);
}

static void teardown(void)
{
    tokenizer_close(smollm);
    tokenizer_close(gpt2);
    str_fini(&golden.file);
}

/* ---- hashes ---- */

static uint64_t add_bytes(uint64_t h, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
    return h;
}

#define HASH_START 0xcbf29ce484222325u

static uint32_t fold(uint64_t h)
{
    return (uint32_t)(h >> 32 ^ h);
}

/* Add the ids of a text to h. */
static uint64_t add_ids(uint64_t h, const struct tokenizer *t, const char *text, size_t n, bool special)
{
    static struct token_ids ids;
    struct err e = {0};
    ids.n = 0;
    if (tokenizer_encode(t, text, n, special, &ids, &e) != 0) /* a passing ck_assert costs a system call */
        ck_abort_msg("%s", e.text);
    return add_bytes(h, ids.ids, ids.n * sizeof *ids.ids);
}

static void check_text(const struct tokenizer *t, const char *text, size_t n, bool special, uint32_t want,
                       const char *what)
{
    if (fold(add_ids(HASH_START, t, text, n, special)) == want)
        return;
    printf("%s: the reference gives other ids for:", what);
    for (size_t i = 0; i < n && i < 2000; i++)
        printf((uint8_t)text[i] < 0x20 || (uint8_t)text[i] > 0x7E ? "\\x%02x" : "%c", (uint8_t)text[i]);
    printf("\n");
    ck_abort_msg("%s: ids differ (text above)", what);
}

/* ---- tests ---- */

static void make_text(uint32_t i, struct str *out)
{
    uint64_t state = i;
    str_cut(out, 0);
    for (uint64_t parts = 1 + rng_next(&state) % 12; parts; parts--) {
        uint64_t x = rng_next(&state);
        uint64_t times = (x >> 32) % 16 == 0 ? 2 + (x >> 40) % 30 : 1;
        uint32_t k = (uint32_t)x % golden.count[FRAGMENTS];
        for (; times; times--)
            str_add(out, golden.fragment[k], golden.fragment_len[k]);
        if (x >> 63)
            str_putc(out, ' ');
    }
}

START_TEST(test_texts_of_many_scripts_have_the_ids_of_the_reference)
{
    setup();
    ck_assert_uint_ge(golden.count[TEXTS], 10000);
    struct str text = {0};
    str_puts(&text, "");
    for (uint32_t i = 0; i < golden.count[TEXTS]; i++) {
        make_text(i, &text);
        check_text(smollm, text.data, text.len, false, word(golden.texts, 3 * i), "smollm");
        check_text(smollm, text.data, text.len, true, word(golden.texts, 3 * i + 1), "smollm, special");
        check_text(gpt2, text.data, text.len, false, word(golden.texts, 3 * i + 2), "gpt2");
    }
    str_fini(&text);
    teardown();
}
END_TEST

START_TEST(test_the_model_file_names_its_special_tokens)
{
    setup();
    size_t n;
    const int32_t *eog = tokenizer_eog(smollm, &n);
    ck_assert_int_eq(tokenizer_vocab(smollm), 49152);
    ck_assert_int_eq(tokenizer_bos(smollm), 1);
    ck_assert_int_eq(tokenizer_eos(smollm), 2);
    ck_assert(!tokenizer_add_bos(smollm));
    ck_assert_uint_eq(n, 3); /* <|im_end|>, <|endoftext|>, and <reponame>, which begins another repository */
    ck_assert(eog[0] == 2 && eog[1] == 0 && eog[2] == 4);
    ck_assert_int_eq(tokenizer_find(smollm, "<|im_start|>", 12), 1);
    ck_assert(tokenizer_is_special(smollm, 16) && !tokenizer_is_special(smollm, 17));
    teardown();
}
END_TEST

START_TEST(test_long_runs_of_one_character_have_the_ids_of_the_reference)
{
    setup();
    for (uint32_t i = 0; i < golden.count[RUNS]; i++) {
        struct str text = {0};
        for (int k = 0; k < RUN; k++)
            str_add(&text, golden.fragment[i], golden.fragment_len[i]);
        check_text(smollm, text.data, text.len, false, word(golden.runs, 2 * i), "smollm");
        check_text(gpt2, text.data, text.len, false, word(golden.runs, 2 * i + 1), "gpt2");
        str_fini(&text);
    }
    teardown();
}
END_TEST

/* Hash over a<cp>b and 1<cp>! for the 256 code points from `first`. */
static uint32_t hash_code_points(const struct tokenizer *t, uint32_t first)
{
    uint64_t h = HASH_START;
    for (uint32_t cp = first; cp < first + 256; cp++) {
        if (cp >= 0xD800 && cp <= 0xDFFF)
            continue;
        char text[6] = "a";
        size_t n = 1 + utf8_put(text + 1, cp);
        text[n] = 'b';
        h = add_ids(h, t, text, n + 1, false);
        text[0] = '1';
        text[n] = '!';
        h = add_ids(h, t, text, n + 1, false);
    }
    return fold(h);
}

START_TEST(test_every_code_point_between_letters_has_the_ids_of_the_reference)
{
    setup();
    ck_assert_uint_eq(golden.count[CP_BLOCKS], 0x1100);
    for (uint32_t i = 0; i < golden.count[CP_BLOCKS]; i += STRIDE) {
        if (hash_code_points(smollm, i << 8) != word(golden.code_points, 2 * i))
            ck_abort_msg("smollm: a code point from U+%04X to U+%04X differs", i << 8, (i << 8) + 255);
        if (hash_code_points(gpt2, i << 8) != word(golden.code_points, 2 * i + 1))
            ck_abort_msg("gpt2: a code point from U+%04X to U+%04X differs", i << 8, (i << 8) + 255);
    }
    teardown();
}
END_TEST

START_TEST(test_every_token_text_has_the_ids_of_the_reference)
{
    setup();
    int32_t vocab = tokenizer_vocab(smollm), seen = 0;
    for (uint32_t i = 0; i < golden.count[VOCAB_BLOCKS]; i++) {
        uint64_t h = HASH_START;
        for (int32_t id = (int32_t)i * 64; id < (int32_t)i * 64 + 64 && id < vocab; id++) {
            size_t n;
            const char *bytes = tokenizer_token_bytes(smollm, id, &n);
            if (!n || !utf8_valid(bytes, n))
                continue;
            h = add_ids(h, smollm, bytes, n, false);
            seen++;
        }
        if (fold(h) != word(golden.vocabulary, i))
            ck_abort_msg("a token from %u to %u differs", i * 64, i * 64 + 63);
    }
    ck_assert_int_gt(seen, 48000);
    teardown();
}
END_TEST

static uint32_t hash_decode(const int32_t *ids, size_t n, bool skip_special)
{
    struct detok d = {0};
    struct str out = {0};
    for (size_t i = 0; i < n; i++)
        detok_push(&d, smollm, ids[i], skip_special, &out);
    detok_finish(&d, &out);
    ck_assert(!out.oom);
    uint32_t h = fold(add_bytes(HASH_START, out.data, out.len));
    str_fini(&out);
    return h;
}

START_TEST(test_random_ids_decode_to_the_text_of_the_reference)
{
    setup();
    for (uint32_t i = 0; i < golden.count[DECODES]; i++) {
        int32_t ids[24];
        uint64_t state = i;
        size_t n = 1 + rng_next(&state) % 24;
        for (size_t k = 0; k < n; k++) {
            uint64_t x = rng_next(&state), most = rng_next(&state) % 4 ? 512 : (uint64_t)tokenizer_vocab(smollm);
            ids[k] = (int32_t)(x % most);
        }
        ck_assert_msg(hash_decode(ids, n, false) == word(golden.decodes, 2 * i), "list %u", i);
        ck_assert_msg(hash_decode(ids, n, true) == word(golden.decodes, 2 * i + 1), "list %u without special", i);
    }
    teardown();
}
END_TEST

/* Seconds of this thread's CPU time to encode n bytes. */
static double cpu_seconds(const char *text, size_t n)
{
    struct timespec a, b;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    add_ids(HASH_START, smollm, text, n, false);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    return (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9;
}

START_TEST(test_a_million_equal_characters_take_under_a_second)
{
    static const char *const units[] = {"a", " ", "\n", "=", "\u0301", "\u4e2d"};
    setup();
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        struct str text = {0};
        for (size_t k = 0; k < MILLION; k++)
            str_puts(&text, units[i]);
        double s = cpu_seconds(text.data, text.len);
        for (int tries = 0; tries < 3 && s > 1; tries++) /* a busy machine slows even CPU time */
            s = cpu_seconds(text.data, text.len);
        printf("%d times unit %zu: %.3f s\n", MILLION, i, s);
        ck_assert_double_lt(s, 1.0);
        str_fini(&text);
    }
    teardown();
}
END_TEST

/* ---- merges that no training makes ---- */

struct rules {
    const char *token[64], *merge[64]; /* merges as "left right" */
    size_t n_tokens, n_merges;
};

static bool among(const char *const *list, size_t n, const char *s)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i], s) == 0)
            return true;
    return false;
}

/* As rule_set() of the script. */
static void make_rules(struct rules *r, uint64_t *state)
{
    *r = (struct rules){.token = {"a", "b", "c", "d"}, .n_tokens = 4};
    for (uint64_t tries = 4 + rng_next(state) % 40; tries; tries--) {
        char merge[64], whole[64];
        const char *left = r->token[rng_next(state) % r->n_tokens], *right = r->token[rng_next(state) % r->n_tokens];
        size_t at = rng_next(state) % (r->n_merges + 1);
        snprintf(merge, sizeof merge, "%s %s", left, right);
        snprintf(whole, sizeof whole, "%s%s", left, right);
        if (strlen(whole) > 12 || among(r->merge, r->n_merges, merge))
            continue;
        memmove(r->merge + at + 1, r->merge + at, (r->n_merges++ - at) * sizeof *r->merge);
        r->merge[at] = strdup(merge);
        if (!among(r->token, r->n_tokens, whole))
            r->token[r->n_tokens++] = strdup(whole);
    }
}

static void free_rules(struct rules *r)
{
    for (size_t i = 4; i < r->n_tokens; i++)
        free((char *)r->token[i]);
    for (size_t i = 0; i < r->n_merges; i++)
        free((char *)r->merge[i]);
}

START_TEST(test_odd_rule_sets_merge_as_the_reference)
{
    read_golden();
    for (uint32_t set = 0; set < golden.count[RULE_SETS]; set++) {
        uint64_t state = 1000003u * (set + 1u), h = HASH_START;
        struct rules r;
        make_rules(&r, &state);
        struct tokenizer *t = open_made("gpt2", r.token, r.n_tokens, r.merge, r.n_merges);
        for (int i = 0; i < RULE_TEXTS; i++) {
            char text[40];
            size_t n = 1 + rng_next(&state) % 40;
            for (size_t k = 0; k < n; k++)
                text[k] = "abcd"[rng_next(&state) % 4];
            h = add_ids(h, t, text, n, false);
        }
        ck_assert_msg(fold(h) == word(golden.rule_sets, set), "rule set %u", set);
        tokenizer_close(t);
        free_rules(&r);
    }
    str_fini(&golden.file);
}
END_TEST

UNIT_MAIN("golden tokenizer", test_texts_of_many_scripts_have_the_ids_of_the_reference,
          test_the_model_file_names_its_special_tokens, test_long_runs_of_one_character_have_the_ids_of_the_reference,
          test_a_million_equal_characters_take_under_a_second,
          test_every_code_point_between_letters_has_the_ids_of_the_reference,
          test_every_token_text_has_the_ids_of_the_reference, test_random_ids_decode_to_the_text_of_the_reference,
          test_odd_rule_sets_merge_as_the_reference)
