/* test_gguf - the GGUF reader: what it gives back, and that no file can hurt it (facts M1 to M6, M9, M10). */
#include "tests/support/unit.h"

#include "engine/base/gguf.h"
#include "engine/base/rng.h"
#include "tests/support/gguf_walk.h"
#include "tests/support/gguf_write.h"

#include <string.h>

static const char *const keys[] = {"u8",
                                   "i8",
                                   "u16",
                                   "i16",
                                   "u32",
                                   "i32",
                                   "f32",
                                   "bool",
                                   "text",
                                   "u64",
                                   "i64",
                                   "f64",
                                   "numbers",
                                   "floats",
                                   "texts",
                                   "empty",
                                   "general.alignment"};
#define N_KEYS (sizeof keys / sizeof *keys)

static const float ramp[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};

static void add_tensors(struct gguf_write *w)
{
    const uint64_t matrix[] = {4, 3}, quant[] = {64, 2, 1}, one[] = {1};
    uint8_t q[2 * 68];
    memset(q, 7, sizeof q);
    gguf_write_tensor(w, "matrix", GGUF_DT_F32, matrix, 2, ramp, sizeof ramp);
    gguf_write_tensor(w, "quant", GGUF_DT_Q8_0, quant, 3, q, sizeof q);
    gguf_write_tensor(w, "one", GGUF_DT_F32, one, 1, &ramp[5], 4);
}

/* One value of every kind. */
static void add_all_kinds(struct gguf_write *w)
{
    const uint16_t numbers[] = {1, 2, 65535};
    const double floats[] = {0.5, -2};
    const char *const texts[] = {"a", "", "long one"};
    gguf_write_int(w, "u8", GGUF_U8, 255);
    gguf_write_int(w, "i8", GGUF_I8, (uint64_t)-1);
    gguf_write_int(w, "u16", GGUF_U16, 65535);
    gguf_write_int(w, "i16", GGUF_I16, (uint64_t)-2);
    gguf_write_int(w, "u32", GGUF_U32, UINT32_MAX);
    gguf_write_int(w, "i32", GGUF_I32, (uint64_t)-3);
    gguf_write_float(w, "f32", 1.5f);
    gguf_write_int(w, "bool", GGUF_BOOL, 1);
    gguf_write_text(w, "text", "h\xc3\xa9llo");
    gguf_write_int(w, "u64", GGUF_U64, UINT64_MAX);
    gguf_write_int(w, "i64", GGUF_I64, (uint64_t)INT64_MIN);
    const double pi = 3.25;
    gguf_write_raw(w, "f64", GGUF_F64, &pi, sizeof pi);
    gguf_write_array(w, "numbers", GGUF_U16, numbers, 3);
    gguf_write_array(w, "floats", GGUF_F64, floats, 2);
    gguf_write_texts(w, "texts", texts, 3);
    gguf_write_texts(w, "empty", NULL, 0);
}

static struct str good_file(void)
{
    struct gguf_write w = {0};
    struct str s = {0};
    add_all_kinds(&w);
    add_tensors(&w);
    gguf_write_finish(&w, &s);
    return s;
}

/* Open bytes in a block of exactly their size, so that a sanitizer sees every read beyond. Walks what opens. */
static int try_bytes(const void *bytes, size_t n, struct err *e)
{
    struct gguf *g = NULL;
    void *copy = malloc(n ? n : 1);
    ck_assert_ptr_nonnull(copy);
    if (n)
        memcpy(copy, bytes, n);
    *e = (struct err){0};
    int rc = gguf_open_memory(&g, copy, n, e);
    if (rc) {
        ck_assert_ptr_null(g);
        ck_assert_int_eq(rc, -e->code);
        ck_assert_uint_gt(strlen(e->text), 10);
    } else {
        gguf_walk(g, keys, N_KEYS);
    }
    gguf_close(g);
    free(copy);
    return rc;
}

START_TEST(test_gguf_gives_back_every_kind_of_value)
{
    struct str s = good_file();
    struct gguf *g;
    struct err e;
    ck_assert_int_eq(gguf_open_memory(&g, s.data, s.len, &e), 0);
    int64_t i;
    double d;
    bool b;
    size_t n, at = 0;
    static const struct {
        const char *key;
        int64_t value;
    } ints[] = {{"u8", 255},         {"i8", -1},  {"u16", 65535},    {"i16", -2},
                {"u32", UINT32_MAX}, {"i32", -3}, {"i64", INT64_MIN}};
    for (size_t k = 0; k < sizeof ints / sizeof *ints; k++) {
        ck_assert(gguf_int(gguf_get(g, ints[k].key), &i));
        ck_assert_int_eq(i, ints[k].value);
    }
    ck_assert(!gguf_int(gguf_get(g, "u64"), &i)); /* beyond int64 */
    ck_assert(!gguf_int(gguf_get(g, "f32"), &i));
    ck_assert(!gguf_int(gguf_get(g, "nothing"), &i));
    ck_assert(gguf_float(gguf_get(g, "f32"), &d) && d == 1.5);
    ck_assert(gguf_float(gguf_get(g, "f64"), &d) && d == 3.25);
    ck_assert(!gguf_float(gguf_get(g, "u8"), &d));
    ck_assert(gguf_bool(gguf_get(g, "bool"), &b) && b);
    ck_assert(!gguf_bool(gguf_get(g, "u8"), &b));
    ck_assert_mem_eq(gguf_text(gguf_get(g, "text"), &n), "h\xc3\xa9llo", 6);
    ck_assert_uint_eq(n, 6);
    ck_assert_ptr_null(gguf_text(gguf_get(g, "u8"), &n));
    const struct gguf_val *v = gguf_get(g, "numbers");
    ck_assert_int_eq(gguf_array_len(v), 3);
    ck_assert_int_eq(gguf_array_type(v), GGUF_U16);
    ck_assert(gguf_array_int(v, 2, &i) && i == 65535);
    ck_assert(!gguf_array_int(v, 3, &i));
    ck_assert(gguf_array_float(gguf_get(g, "floats"), 1, &d) && d == -2);
    v = gguf_get(g, "texts");
    ck_assert_mem_eq(gguf_array_text(v, &at, &n), "a", 1);
    ck_assert(gguf_array_text(v, &at, &n) && n == 0);
    ck_assert_mem_eq(gguf_array_text(v, &at, &n), "long one", 8);
    ck_assert_ptr_null(gguf_array_text(v, &at, &n));
    at = 0;
    ck_assert_ptr_null(gguf_array_text(gguf_get(g, "empty"), &at, &n));
    ck_assert_int_eq(gguf_array_len(gguf_get(g, "text")), -1);
    gguf_close(g);
    str_fini(&s);
}
END_TEST

START_TEST(test_gguf_finds_tensors_and_their_bytes)
{
    struct str s = good_file();
    struct gguf *g;
    struct err e;
    ck_assert_int_eq(gguf_open_memory(&g, s.data, s.len, &e), 0);
    ck_assert_uint_eq(gguf_n_tensors(g), 3);
    ck_assert_uint_eq(gguf_file_bytes(g), s.len);
    const struct gguf_tensor *t = gguf_find(g, "matrix");
    ck_assert_ptr_eq(t, gguf_tensor_at(g, 0));
    ck_assert_mem_eq(t->data, ramp, sizeof ramp);
    ck_assert(t->n_dims == 2 && t->dims[0] == 4 && t->dims[1] == 3 && t->dims[2] == 1);
    ck_assert_uint_eq(gguf_find(g, "quant")->bytes, 136);
    ck_assert_mem_eq(gguf_find(g, "one")->data, &ramp[5], 4);
    ck_assert_ptr_null(gguf_find(g, "matri"));
    ck_assert_ptr_null(gguf_find(g, ""));
    ck_assert_ptr_null(gguf_tensor_at(g, 3));
    gguf_close(g);
    gguf_close(NULL);
    str_fini(&s);
}
END_TEST

START_TEST(test_gguf_knows_the_bytes_of_a_row)
{
    ck_assert_uint_eq(gguf_row_bytes(GGUF_DT_F32, 5), 20);
    ck_assert_uint_eq(gguf_row_bytes(GGUF_DT_BF16, 5), 10);
    ck_assert_uint_eq(gguf_row_bytes(GGUF_DT_Q4_0, 64), 36);
    ck_assert_uint_eq(gguf_row_bytes(GGUF_DT_Q4_1, 64), 40);
    ck_assert_uint_eq(gguf_row_bytes(GGUF_DT_Q8_0, 33), 0);
    ck_assert_uint_eq(gguf_row_bytes(GGUF_DT_F32, UINT64_MAX / 2), 0);
    ck_assert_uint_eq(gguf_row_bytes(99, 32), 0);
    ck_assert_str_eq(gguf_dtype_name(GGUF_DT_Q4_1), "Q4_1");
    ck_assert_str_eq(gguf_dtype_name(99), "unknown");
}
END_TEST

START_TEST(test_gguf_reads_version_2_and_a_chosen_alignment)
{
    struct gguf_write w = {.version = 2, .align = 128};
    struct str s = {0};
    struct err e;
    gguf_write_int(&w, "general.alignment", GGUF_U32, 128);
    add_tensors(&w);
    gguf_write_finish(&w, &s);
    struct gguf *g;
    ck_assert_int_eq(gguf_open_memory(&g, s.data, s.len, &e), 0);
    ck_assert_uint_eq(((const char *)gguf_find(g, "quant")->data - s.data) % 128, 0);
    ck_assert_mem_eq(gguf_find(g, "one")->data, &ramp[5], 4);
    gguf_close(g);
    str_fini(&s);
}
END_TEST

START_TEST(test_gguf_cut_at_any_byte_is_an_error)
{
    struct str s = good_file();
    struct err e;
    size_t end = s.len - 28; /* the padding behind the last tensor may be missing */
    for (size_t n = 0; n < end; n++)
        ck_assert_msg(try_bytes(s.data, n, &e) < 0, "cut at %zu of %zu opened", n, s.len);
    for (size_t n = end; n <= s.len; n++)
        ck_assert_msg(try_bytes(s.data, n, &e) == 0, "cut at %zu: %s", n, e.text);
    str_fini(&s);
}
END_TEST

/* Without one-byte values: there, another type would be as good. */
static void add_wide_kinds(struct gguf_write *w)
{
    const uint32_t numbers[] = {1, 2, 3};
    const char *const texts[] = {"a", "bc", ""};
    gguf_write_int(w, "u32", GGUF_U32, 77);
    gguf_write_text(w, "text", "hello");
    gguf_write_array(w, "numbers", GGUF_U32, numbers, 3);
    gguf_write_texts(w, "texts", texts, 3);
    gguf_write_int(w, "u64", GGUF_U64, 5);
}

START_TEST(test_gguf_refuses_every_field_at_hostile_values)
{
    static const uint64_t hostile[] = {0,          1,          0x7fffffff,       1ull << 31,     0xffffffff, 1ull << 32,
                                       1ull << 61, 1ull << 63, (1ull << 63) - 1, UINT64_MAX - 1, UINT64_MAX};
    struct gguf_write w = {0};
    struct str s = {0};
    struct err e;
    size_t tried = 0;
    add_wide_kinds(&w);
    add_tensors(&w);
    gguf_write_finish(&w, &s);
    for (size_t i = 0; i < w.n_fields; i++) {
        const struct gguf_write_field *f = &w.field[i];
        uint64_t good = 0;
        memcpy(&good, s.data + f->at, (size_t)f->bytes);
        for (size_t k = 0; k < sizeof hostile / sizeof *hostile; k++) {
            uint64_t bad = f->bytes == 4 ? (uint32_t)hostile[k] : hostile[k];
            if (bad == good)
                continue;
            /* fewer tensors, or a last one that needs fewer bytes, is another good file */
            bool fine = (!strcmp(f->what, "n_tensors") && bad < good) ||
                        (i == w.n_fields - 4 && !strcmp(f->what, "tensor type") && bad == GGUF_DT_F16);
            memcpy(s.data + f->at, &bad, (size_t)f->bytes);
            int rc = try_bytes(s.data, s.len, &e);
            ck_assert_msg(fine ? rc == 0 : rc < 0, "%s at byte %zu = %llu: %d", f->what, f->at, (unsigned long long)bad,
                          rc);
            tried++;
        }
        memcpy(s.data + f->at, &good, (size_t)f->bytes);
    }
    ck_assert_uint_gt(tried, 250);
    ck_assert_int_eq(try_bytes(s.data, s.len, &e), 0);
    str_fini(&s);
}
END_TEST

/* -- handcrafted faults: each makes a file with one thing wrong, and the error must say which */

static void overwrite(struct gguf_write *w, struct str *s, const char *what, int nth, uint64_t v)
{
    for (size_t i = 0; i < w->n_fields; i++)
        if (!strcmp(w->field[i].what, what) && nth-- == 0) {
            memcpy(s->data + w->field[i].at, &v, (size_t)w->field[i].bytes);
            return;
        }
    ck_abort_msg("no such field: %s", what);
}

struct fault {
    const char *what; /* field to overwrite, or "byte" (nth = where) */
    int nth;
    uint64_t value;
    const char *expect; /* in the error */
};

START_TEST(test_gguf_names_what_is_wrong_with_a_damaged_field)
{
    static const struct fault faults[] = {
        {"byte", 0, 'X', "not a GGUF file"},
        {"byte", 4, 0, "version 0"},
        {"byte", 4, 1, "version 1"},
        {"byte", 4, 4, "version 4"},
        {"n_kv", 0, 1ull << 40, "metadata keys"},
        {"n_tensors", 0, 1ull << 40, "tensors in a file"},
        {"key length", 0, 0, "must be 1 to"},
        {"key length", 0, 70000, "beyond the end"},
        {"key length", 1, UINT64_MAX, "beyond the end"},
        {"value type", 0, 13, "type 13"},
        {"value type", 1, 0xffffffff, "'text': value of type 4294967295"},
        {"string length", 0, 1ull << 31, "'text': a string"},
        {"array type", 0, 9, "array of type 9"},
        {"array type", 0, 99, "array of type 99"},
        {"array length", 0, 1ull << 62, "'numbers': an array"}, /* x 4 wraps to 0 */
        {"array length", 1, 1ull << 62, "a string of an array"},
        {"element length", 2, UINT64_MAX - 7, "a string of an array"},
        {"name length", 0, 0, "must be 1 to"},
        {"n_dims", 0, 0, "'matrix': 0 dimensions"},
        {"n_dims", 0, 5, "'matrix': 5 dimensions"},
        {"dim", 0, 0, "dimension 0 is 0"},
        {"dim", 1, 0, "dimension 1 is 0"},
        {"dim", 0, 1ull << 62, "need more bytes"}, /* x 4 wraps to 0 */
        {"dim", 2, 33, "multiple of 32"},
        {"dim", 3, 1ull << 63, "need more bytes"},
        {"tensor type", 0, 6, "type 6 is not supported"},
        {"tensor type", 0, 0xffffffff, "not supported"},
        {"offset", 1, 0, "must be 64"},                 /* overlap */
        {"offset", 1, 96, "must be 64"},                /* gap */
        {"offset", 1, 65, "must be 64"},                /* not aligned */
        {"offset", 2, UINT64_MAX - 31, "right behind"}, /* wraps */
        {"offset", 0, 1ull << 63, "must be 0"},
    };
    struct err e;
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        struct gguf_write w = {0};
        struct str s = {0};
        add_wide_kinds(&w);
        add_tensors(&w);
        gguf_write_finish(&w, &s);
        if (!strcmp(faults[i].what, "byte"))
            s.data[faults[i].nth] = (char)faults[i].value;
        else
            overwrite(&w, &s, faults[i].what, faults[i].nth, faults[i].value);
        ck_assert_int_lt(try_bytes(s.data, s.len, &e), 0);
        ck_assert_msg(strstr(e.text, faults[i].expect), "fault %zu: \"%s\" says not \"%s\"", i, e.text,
                      faults[i].expect);
        str_fini(&s);
    }
}
END_TEST

static void bad_alignment(struct gguf_write *w, enum gguf_type type, uint64_t value)
{
    gguf_write_int(w, "general.alignment", type, value);
    add_tensors(w);
}

static void make_fault(struct gguf_write *w, int which)
{
    static const uint64_t wrap[] = {1ull << 32, 1ull << 32, 1ull << 32, 1ull << 32}, two[] = {8, 1},
                          huge[] = {1ull << 31, 1ull << 31}, end[] = {(1ull << 62) - 8};
    static const uint8_t nested[] = {9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0,
                                     0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0};
    switch (which) {
    case 0:
        bad_alignment(w, GGUF_U32, 0);
        break;
    case 1:
        bad_alignment(w, GGUF_U32, 3);
        break;
    case 2:
        bad_alignment(w, GGUF_U32, 4);
        break;
    case 3:
        bad_alignment(w, GGUF_U32, 1u << 31);
        break;
    case 4:
        bad_alignment(w, GGUF_U64, 32);
        break;
    case 5: /* the data is laid out for 32 */
        bad_alignment(w, GGUF_U32, 64);
        break;
    case 6:
        gguf_write_int(w, "u32", GGUF_U32, 1);
        gguf_write_text(w, "u32", "again");
        break;
    case 7:
        gguf_write_tensor(w, "t", GGUF_DT_F32, two, 2, NULL, 32);
        gguf_write_tensor(w, "t", GGUF_DT_F32, two, 2, NULL, 32);
        break;
    case 8:
        gguf_write_text(w, "bad\nkey", "x");
        break;
    case 9:
        gguf_write_tensor(w, "bad\x7fname", GGUF_DT_F32, two, 2, NULL, 32);
        break;
    case 10:
        gguf_write_raw(w, "nested", GGUF_ARRAY, nested, sizeof nested);
        break;
    case 11: /* 2^128 elements: 0 in 64 and in 128 bits */
        gguf_write_tensor(w, "wrap", GGUF_DT_F32, wrap, 4, NULL, 32);
        break;
    case 12: /* exabytes logical, little real */
        gguf_write_tensor(w, "huge", GGUF_DT_F16, huge, 2, NULL, 4096);
        break;
    case 13: /* padding of its size would wrap */
        gguf_write_tensor(w, "end", GGUF_DT_F32, end, 1, NULL, 32);
        break;
    case 14:
        gguf_write_int(w, "split.count", GGUF_U16, 3);
        break;
    case 15:
        bad_alignment(w, GGUF_U32, 48);
        break;
    default:
        gguf_write_int(w, "split.count", GGUF_U32, UINT32_MAX);
        break;
    }
}

START_TEST(test_gguf_refuses_files_made_to_hurt)
{
    static const char *const expect[] = {
        "general.alignment 0", "general.alignment 3", "general.alignment 4",  "alignment 2147483648",
        "must be a 32-bit",    "must be 256",         "'u32' is there twice", "'t' is there twice",
        "printable",           "printable",           "array of type 9",      "need more bytes",
        "need more bytes",     "need more bytes",     "3 split files",        "alignment 48",
        "split.count"};
    struct err e;
    for (int i = 0; i < (int)(sizeof expect / sizeof *expect); i++) {
        struct gguf_write w = {0};
        struct str s = {0};
        make_fault(&w, i);
        gguf_write_finish(&w, &s);
        ck_assert_int_lt(try_bytes(s.data, s.len, &e), 0);
        ck_assert_msg(strstr(e.text, expect[i]), "fault %d: \"%s\" says not \"%s\"", i, e.text, expect[i]);
        str_fini(&s);
    }
}
END_TEST

START_TEST(test_gguf_counts_are_bounded_by_the_bytes_that_are_there)
{
    struct gguf_write w = {0};
    struct str s = {0};
    struct err e;
    gguf_write_finish(&w, &s);
    ck_assert_int_eq(try_bytes(s.data, s.len, &e), 0); /* empty is fine */
    for (int i = 0; i < 4000; i++)
        str_putc(&s, 0);
    overwrite(&w, &s, "n_kv", 0, 4000 / 14 + 1);
    ck_assert_int_lt(try_bytes(s.data, s.len, &e), 0);
    ck_assert_ptr_nonnull(strstr(e.text, "metadata keys in a file"));
    overwrite(&w, &s, "n_kv", 0, 0);
    overwrite(&w, &s, "n_tensors", 0, 4000 / 33 + 1);
    ck_assert_int_lt(try_bytes(s.data, s.len, &e), 0);
    ck_assert_ptr_nonnull(strstr(e.text, "tensors in a file"));
    str_fini(&s);
}
END_TEST

START_TEST(test_gguf_survives_random_damage)
{
    uint64_t rng = unit_seed("random damage");
    struct str s = good_file();
    struct err e;
    int opened = 0;
    for (int i = 0; i < 20000; i++) {
        struct str m = {0};
        str_add(&m, s.data, s.len);
        for (uint64_t n = 1 + rng_next(&rng) % 4; n; n--)
            m.data[rng_next(&rng) % m.len] = (char)(rng_next(&rng) % 3 ? rng_next(&rng) : rng_next(&rng) % 2 - 1);
        opened += try_bytes(m.data, m.len, &e) == 0;
        str_fini(&m);
    }
    ck_assert_int_gt(opened, 100); /* damage to data or values is not always damage to the format */
    ck_assert_int_lt(opened, 19000);
    str_fini(&s);
}
END_TEST

START_TEST(test_gguf_keeps_long_metadata_linear)
{
    struct gguf_write w = {0};
    struct str s = {0};
    struct err e;
    char key[32];
    struct gguf *g;
    for (int i = 0; i < 60000; i++) {
        snprintf(key, sizeof key, "k%d", i);
        w.n_fields = 0; /* not noted */
        gguf_write_int(&w, key, GGUF_U32, (uint64_t)i);
    }
    gguf_write_finish(&w, &s);
    ck_assert_int_eq(gguf_open_memory(&g, s.data, s.len, &e), 0);
    for (int i = 0; i < 60000; i++) {
        int64_t v;
        snprintf(key, sizeof key, "k%d", i);
        ck_assert(gguf_int(gguf_get(g, key), &v) && v == i);
    }
    gguf_close(g);
    str_fini(&s);
}
END_TEST

UNIT_MAIN("gguf", test_gguf_gives_back_every_kind_of_value, test_gguf_finds_tensors_and_their_bytes,
          test_gguf_knows_the_bytes_of_a_row, test_gguf_reads_version_2_and_a_chosen_alignment,
          test_gguf_cut_at_any_byte_is_an_error, test_gguf_refuses_every_field_at_hostile_values,
          test_gguf_names_what_is_wrong_with_a_damaged_field, test_gguf_refuses_files_made_to_hurt,
          test_gguf_counts_are_bounded_by_the_bytes_that_are_there, test_gguf_survives_random_damage,
          test_gguf_keeps_long_metadata_linear)
