/* test_tokenizer_limits - every way for a vocabulary to be refused; little stack, no quadratic time, any allocation
 * fails.
 */
#include "tests/support/failing_malloc.h"
#include "tests/support/made_vocab.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

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
    const char *list[MADE_MAX];
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
    int rc = made_open_file(w, &t, e);
    tokenizer_close(t);
    free(w);
    return rc;
}

START_TEST(test_bad_metadata_is_refused_and_its_key_named)
{
    static struct made m;
    m = (struct made){.n = 0};
    made_bytes(&m);
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
        made_bytes(&m);
        made_merge(&m, "a", "b");
        snprintf(m.merge[m.n_merges++], sizeof m.merge[0], "%s", bad[i]);
        gguf_write_text(w, "tokenizer.ggml.model", "gpt2");
        gguf_write_text(w, "tokenizer.ggml.pre", "gpt2");
        made_lists(&m, w);
        ck_assert_msg(made_open_file(w, &t, &e) == -EINVAL, "'%s' was taken", bad[i]);
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
    made_bytes(&m);
    for (int half = 1; half <= 16; half *= 2) {
        char a[17] = {0};
        memset(a, 'a', (size_t)half);
        made_merge(&m, a, a);
    }
    made_token(&m, "<<<<<<<<<<<<<<<<x", 3);
    struct tokenizer *t = made_open(&m, "smollm");
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
    made_bytes(&m);
    made_merge(&m, "a", "b");
    made_token(&m, "<|im_end|>", 3);
    struct gguf_write *w = calloc(1, sizeof *w);
    struct str bytes = {0};
    struct gguf *g;
    struct err e = {0};
    gguf_write_text(w, "tokenizer.ggml.model", "gpt2");
    gguf_write_text(w, "tokenizer.ggml.pre", "gpt2");
    made_lists(&m, w);
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

UNIT_MAIN("tokenizer_limits", test_bad_metadata_is_refused_and_its_key_named,
          test_a_merge_of_or_into_no_token_is_refused,
          test_a_million_equal_characters_need_little_stack_and_no_quadratic_time, test_any_allocation_may_fail)
