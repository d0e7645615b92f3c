/* test_load - weights from files and made-up ones: shapes, refusals, rope row order, fingerprints. */
#include "tests/support/unit.h"

#include "engine/model/load.h"
#include "tests/support/gguf_llama.h"

#include <errno.h>
#include <math.h>
#include <string.h>

static char dir[] = "/tmp/hearth-load-XXXXXX";
static char path[64];

static struct loader *open_or_die(const char *source)
{
    struct loader *l;
    struct err e = {0};
    int rc = loader_open(&l, source, &e);
    ck_assert_msg(rc == 0, "%s: %s", source, e.text);
    return l;
}

static void begin(void)
{
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/model.gguf", dir);
}

static void end(void)
{
    remove(path);
    ck_assert_int_eq(remove(dir), 0);
}

/* Write tiny as GGUF to `path`, without `skip`, after `w` got what the caller wants in it. */
static void write_tiny(struct gguf_write *w, const char *const *skip)
{
    struct loader *l = open_or_die("random:tiny");
    struct str s = {0};
    gguf_llama_add(w, l, skip);
    gguf_write_finish(w, &s);
    gguf_write_file(path, &s);
    str_fini(&s);
    loader_close(l);
}

/* Opening `path` must fail with a sentence that holds `expect`. */
static void expect_refusal(int code, const char *expect)
{
    struct loader *l = NULL;
    struct err e = {0};
    ck_assert_int_eq(loader_open(&l, path, &e), -code);
    ck_assert_msg(strstr(e.text, expect), "\"%s\" says not \"%s\"", e.text, expect);
    ck_assert_ptr_null(l);
}

/* -- sources */

START_TEST(test_loader_names_what_is_wrong_with_a_source)
{
    static const struct {
        const char *source;
        int code;
        const char *expect;
    } bad[] = {
        {"nowhere/model.gguf", ENOENT, "nowhere/model.gguf"},
        {"nowhere", ENOENT, "random:SHAPE"},
        {"Makefile", ENOTSUP, "gguf, random"},
        {"random:huge", EINVAL, "tiny, tiny-128k, smollm2-135m, llama-1b, llama-8b, llama-8b-128k"},
        {"random:", EINVAL, "no such shape"},
        {"random:tiny:", EINVAL, "seed"},
        {"random:tiny:-1", EINVAL, "seed"},
        {"random:tiny:18446744073709551616", EINVAL, "seed"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct loader *l = NULL;
        struct err e = {0};
        ck_assert_int_eq(loader_open(&l, bad[i].source, &e), -bad[i].code);
        ck_assert_msg(strstr(e.text, bad[i].expect), "%s: \"%s\"", bad[i].source, e.text);
    }
    loader_close(NULL);
}
END_TEST

/* -- random */

static struct weight_loan take(struct loader *l, const char *name)
{
    struct weight_loan loan;
    struct err e;
    ck_assert_int_eq(loader_ops(l)->take(l, name, &loan, &e), 0);
    return loan;
}

START_TEST(test_random_tensor_is_the_same_whenever_it_is_made)
{
    struct loader *a = open_or_die("random:tiny:3"), *b = open_or_die("random:tiny:3"),
                  *c = open_or_die("random:tiny:4");
    struct weight_loan first = take(a, "blk.1.ffn_up.weight"), other = take(b, "blk.0.ffn_up.weight"),
                       second = take(b, "blk.1.ffn_up.weight"), seed4 = take(c, "blk.1.ffn_up.weight");
    size_t bytes = (size_t)first.part.rows * first.part.row_bytes;
    ck_assert_uint_eq(bytes, 128 * 64 * 2);
    ck_assert_mem_eq(first.part.data, second.part.data, bytes);
    ck_assert_mem_ne(first.part.data, other.part.data, bytes);
    ck_assert_mem_ne(first.part.data, seed4.part.data, bytes);
    loader_ops(a)->done(a, &first);
    loader_ops(b)->done(b, &other);
    loader_ops(b)->done(b, &second);
    loader_ops(c)->done(c, &seed4);
    ck_assert_ptr_null(first.part.data);
    loader_close(a);
    loader_close(b);
    loader_close(c);
}
END_TEST

START_TEST(test_random_weights_have_the_spread_that_is_promised)
{
    struct loader *l = open_or_die("random:smollm2-135m");
    struct weight_loan w = take(l, "blk.29.ffn_down.weight"), norm = take(l, "output_norm.weight");
    float row[1536];
    double sum = 0, squares = 0, n = 576.0 * 1536;
    for (int r = 0; r < 576; r++) {
        quant_get_row(row, w.part.dtype, (const uint8_t *)w.part.data + (size_t)r * w.part.row_bytes, 1536);
        for (int i = 0; i < 1536; i++) {
            sum += (double)row[i];
            squares += (double)row[i] * (double)row[i];
        }
    }
    ck_assert_double_eq_tol(sum / n, 0, 1e-4);
    ck_assert_double_eq_tol(squares / n * 1536, 1, 0.01); /* variance 1 / K */
    for (int i = 0; i < 576; i++)
        ck_assert_float_eq_tol(((const float *)norm.part.data)[i], 1, 0.1f);
    loader_ops(l)->done(l, &w);
    loader_ops(l)->done(l, &norm);
    loader_close(l);
}
END_TEST

START_TEST(test_random_shapes_are_those_of_their_models)
{
    static const struct {
        const char *source, *tensor;
        int32_t rows, cols;
    } some[] = {{"random:tiny", "output.weight", 512, 64},
                {"random:tiny-128k", "blk.1.attn_k.weight", 32, 64},
                {"random:smollm2-135m", "token_embd.weight", 49152, 576},
                {"random:llama-1b", "blk.15.attn_k.weight", 512, 2048},
                {"random:llama-1b", "blk.0.ffn_down.weight", 2048, 8192},
                {"random:llama-8b", "output.weight", 128256, 4096},
                {"random:llama-8b", "blk.31.ffn_gate.weight", 14336, 4096}};
    static const char *const none[] = {"output.weight",
                                       "blk.30.attn_q.weight",
                                       "blk.-1.attn_q.weight",
                                       "blk..attn_q.weight",
                                       "blk.99999999999999999999.attn_q.weight",
                                       "blk.0.output_norm.weight",
                                       "attn_q.weight",
                                       ""};
    struct weight_part p;
    struct err e;
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        struct loader *l = open_or_die(some[i].source);
        ck_assert_int_eq(loader_ops(l)->find(l, some[i].tensor, &p, &e), 0);
        ck_assert(p.rows == some[i].rows && p.cols == some[i].cols && p.data == NULL);
        loader_close(l);
    }
    struct loader *l = open_or_die("random:smollm2-135m");
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        ck_assert_int_eq(loader_ops(l)->find(l, none[i], &p, &e), -ENOENT);
    loader_close(l);
}
END_TEST

START_TEST(test_llama3_scaling_keeps_high_and_divides_low_frequencies)
{
    struct loader *l = open_or_die("random:llama-1b");
    const float *f = loader_ops(l)->shape(l)->rope_factor;
    /* rope_freqs.weight of Llama-3.2-1B as converters write it: 15 ones, a transition, then 32 */
    for (int i = 0; i < 15; i++)
        ck_assert_float_eq(f[i], 1);
    for (int i = 18; i < 32; i++)
        ck_assert_float_eq_tol(f[i], 32, 1e-4f);
    /* pair 16: base 500000, wavelength 2 pi 500000^0.5 = 4442.9, smooth (8192 / 4442.9 - 1) / 3 = 0.28128 */
    ck_assert_float_eq_tol(f[16], 3.2926f, 1e-3f);
    loader_close(l);
}
END_TEST

/* -- GGUF */

START_TEST(test_gguf_rows_of_q_and_k_come_out_half_split)
{
    static const char *const names[] = {"blk.0.attn_q.weight", "blk.1.attn_k.weight", "blk.1.attn_v.weight",
                                        "output.weight"};
    struct gguf_write w = {0};
    begin();
    write_tiny(&w, NULL);
    struct loader *file = open_or_die(path), *source = open_or_die("random:tiny");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct weight_loan a = take(file, names[i]), b = take(source, names[i]);
        ck_assert(a.part.rows == b.part.rows && a.part.cols == b.part.cols && a.part.dtype == b.part.dtype);
        ck_assert_mem_eq(a.part.data, b.part.data, (size_t)b.part.rows * b.part.row_bytes);
        ck_assert_int_eq(a.owned != NULL, i < 2); /* the rest is the map itself */
        loader_ops(file)->done(file, &a);
        loader_ops(source)->done(source, &b);
    }
    loader_close(file);
    loader_close(source);
    end();
}
END_TEST

START_TEST(test_gguf_shape_equals_what_was_written)
{
    struct gguf_write w = {0};
    begin();
    write_tiny(&w, NULL);
    struct loader *file = open_or_die(path), *source = open_or_die("random:tiny");
    ck_assert_mem_eq(loader_ops(file)->shape(file), loader_ops(source)->shape(source), sizeof(struct model_shape));
    loader_close(file);
    loader_close(source);
    struct gguf_write tied = {0};
    write_tiny(&tied, (const char *const[]){"output.weight", "llama.attention.head_count_kv", NULL});
    file = open_or_die(path);
    ck_assert(loader_ops(file)->shape(file)->tied);
    ck_assert_int_eq(loader_ops(file)->shape(file)->n_kv_heads, 4); /* absent: as many as heads */
    loader_close(file);
    end();
}
END_TEST

START_TEST(test_gguf_without_a_required_key_or_tensor_is_refused_by_name)
{
    static const char *const required[] = {"general.architecture",
                                           "llama.block_count",
                                           "llama.context_length",
                                           "llama.embedding_length",
                                           "llama.feed_forward_length",
                                           "llama.attention.head_count",
                                           "llama.attention.layer_norm_rms_epsilon",
                                           "token_embd.weight"};
    begin();
    for (size_t i = 0; i < sizeof required / sizeof *required; i++) {
        struct gguf_write w = {0};
        write_tiny(&w, (const char *const[]){required[i], NULL});
        expect_refusal(EINVAL, required[i]);
    }
    end();
}
END_TEST

START_TEST(test_gguf_numbers_out_of_range_are_refused_with_their_range)
{
    static const struct {
        const char *key;
        enum gguf_type type;
        uint64_t value;
        int code;
    } bad[] = {
        {"llama.block_count", GGUF_U32, 0, EINVAL},
        {"llama.block_count", GGUF_U32, UINT32_MAX, EINVAL},
        {"llama.block_count", GGUF_U64, UINT64_MAX, EINVAL},
        {"llama.block_count", GGUF_I32, (uint64_t)-1, EINVAL},
        {"llama.block_count", GGUF_F32, 0x40000000, EINVAL},
        {"llama.embedding_length", GGUF_U32, 0, EINVAL},
        {"llama.attention.head_count", GGUF_U32, 0, EINVAL},
        {"llama.attention.head_count_kv", GGUF_U32, 0, EINVAL},
        {"llama.attention.head_count_kv", GGUF_U32, 3, EINVAL}, /* 4 heads */
        {"llama.attention.head_count_kv", GGUF_U32, 5, EINVAL},
        {"llama.attention.key_length", GGUF_U32, 0, EINVAL},
        {"llama.attention.key_length", GGUF_U32, 15, ENOTSUP},
        {"llama.attention.key_length", GGUF_U32, 1024, EINVAL},
        {"llama.attention.value_length", GGUF_U32, 8, ENOTSUP},
        {"llama.rope.dimension_count", GGUF_U32, 8, ENOTSUP},
        {"llama.expert_count", GGUF_U32, 8, ENOTSUP},
        {"llama.attention.sliding_window", GGUF_U32, 64, ENOTSUP},
        {"llama.context_length", GGUF_U32, 0x80000000u, EINVAL},
        {"llama.attention.layer_norm_rms_epsilon", GGUF_F32, 0x7fc00000, EINVAL}, /* NaN */
        {"llama.rope.freq_base", GGUF_F32, 0, EINVAL},
        {"llama.rope.freq_base", GGUF_U32, 10000, EINVAL},
    };
    begin();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct gguf_write w = {0};
        gguf_write_int(&w, bad[i].key, bad[i].type, bad[i].value);
        write_tiny(&w, (const char *const[]){bad[i].key, NULL});
        expect_refusal(bad[i].code, strrchr(bad[i].key, '.') + 1);
    }
    end();
}
END_TEST

START_TEST(test_gguf_of_another_family_names_the_known_ones)
{
    struct gguf_write w = {0};
    begin();
    gguf_write_text(&w, "general.architecture", "mamba\n\x1b[2J");
    write_tiny(&w, (const char *const[]){"general.architecture", NULL});
    expect_refusal(ENOTSUP, "'mamba??[2J' is not supported (known: llama)");
    end();
}
END_TEST

START_TEST(test_gguf_with_more_tokens_than_rows_is_refused)
{
    static const char *texts[513];
    struct gguf_write w = {0};
    begin();
    for (int i = 0; i < 513; i++)
        texts[i] = "t";
    gguf_write_texts(&w, "tokenizer.ggml.tokens", texts, 500);
    w.n_fields = 0;
    write_tiny(&w, NULL); /* fewer: rows are padding */
    loader_close(open_or_die(path));
    struct gguf_write more = {0};
    for (int i = 0; i < 513; i++)
        texts[i] = "";
    gguf_write_array(&more, "tokenizer.ggml.tokens", GGUF_U8, texts, 513);
    write_tiny(&more, NULL);
    expect_refusal(EINVAL, "513 tokens");
    end();
}
END_TEST

/* -- rope scaling in files */

static float factor_of(const char *type, float factor, const float *tensor, int pair)
{
    const uint64_t dims[] = {8};
    struct gguf_write w = {0};
    if (type)
        gguf_write_text(&w, "llama.rope.scaling.type", type);
    if (type)
        gguf_write_float(&w, "llama.rope.scaling.factor", factor);
    if (tensor)
        gguf_write_tensor(&w, "rope_freqs.weight", GGUF_DT_F32, dims, 1, tensor, 32);
    write_tiny(&w, NULL);
    struct loader *l = open_or_die(path);
    float f = loader_ops(l)->shape(l)->rope_factor[pair];
    loader_close(l);
    return f;
}

START_TEST(test_gguf_rope_scaling_is_read_from_metadata_or_tensor)
{
    static const float tensor[8] = {1, 1, 1, 2, 4, 8, 8, 8};
    begin();
    ck_assert_float_eq(factor_of(NULL, 0, NULL, 7), 1);
    ck_assert_float_eq(factor_of("none", 4, NULL, 7), 1);
    ck_assert_float_eq(factor_of("linear", 4, NULL, 0), 4);
    ck_assert_float_eq(factor_of("llama3", 8, NULL, 0), 1);
    ck_assert_float_eq_tol(factor_of("llama3", 8, NULL, 7), 8, 1e-4f); /* wavelength 2 pi 10000^(7/8) = 19869 */
    ck_assert_float_eq(factor_of(NULL, 0, tensor, 4), 4);
    ck_assert_float_eq(factor_of("llama3", 8, tensor, 4), 4); /* the tensor is that scaling: not twice */
    end();
}
END_TEST

START_TEST(test_gguf_with_unknown_rope_scaling_is_refused)
{
    static const float bad[8] = {1, 1, 0, 1, 1, 1, 1, 1};
    const uint64_t dims[] = {8}, other[] = {4};
    struct gguf_write yarn = {0}, zero = {0}, length = {0}, factor = {0};
    begin();
    gguf_write_text(&yarn, "llama.rope.scaling.type", "yarn");
    gguf_write_float(&yarn, "llama.rope.scaling.factor", 4);
    write_tiny(&yarn, NULL);
    expect_refusal(ENOTSUP, "'yarn': must be none, linear or llama3");
    gguf_write_tensor(&zero, "rope_freqs.weight", GGUF_DT_F32, dims, 1, bad, 32);
    write_tiny(&zero, NULL);
    expect_refusal(EINVAL, "factor 2 is 0");
    gguf_write_tensor(&length, "rope_freqs.weight", GGUF_DT_F32, other, 1, bad, 16);
    write_tiny(&length, NULL);
    expect_refusal(EINVAL, "must be 8 floats");
    gguf_write_text(&factor, "llama.rope.scaling.type", "linear");
    write_tiny(&factor, NULL);
    expect_refusal(EINVAL, "rope.scaling.factor is missing");
    end();
}
END_TEST

/* -- fingerprints */

static struct hash_key fingerprint_of(const char *source)
{
    struct loader *l = open_or_die(source);
    struct hash_key k;
    struct err e;
    ck_assert_int_eq(loader_ops(l)->fingerprint(l, &k, &e), 0);
    loader_close(l);
    return k;
}

static void flip_bit(long at)
{
    FILE *f = fopen(path, "r+b");
    ck_assert_ptr_nonnull(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    int c = fgetc(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    fputc(c ^ 1, f);
    fclose(f);
}

START_TEST(test_fingerprint_changes_with_any_weight_or_metadata)
{
    struct gguf_write w = {0};
    begin();
    write_tiny(&w, NULL);
    struct hash_key a = fingerprint_of(path), b = fingerprint_of(path);
    ck_assert(hash_key_equal(&a, &b));
    flip_bit(-64); /* the last bytes are output.weight */
    b = fingerprint_of(path);
    ck_assert(!hash_key_equal(&a, &b));
    flip_bit(-64);
    flip_bit(24 + 8 + 20 + 4 + 8 + 5 + 8 + 12 + 4 + 8); /* first letter of general.name */
    b = fingerprint_of(path);
    ck_assert(!hash_key_equal(&a, &b));
    a = fingerprint_of("random:tiny");
    b = fingerprint_of("random:tiny:1");
    ck_assert(hash_key_equal(&a, &b));
    b = fingerprint_of("random:tiny:2");
    ck_assert(!hash_key_equal(&a, &b));
    b = fingerprint_of("random:tiny-128k");
    ck_assert(!hash_key_equal(&a, &b));
    end();
}
END_TEST

UNIT_MAIN("load", test_loader_names_what_is_wrong_with_a_source, test_random_tensor_is_the_same_whenever_it_is_made,
          test_random_weights_have_the_spread_that_is_promised, test_random_shapes_are_those_of_their_models,
          test_llama3_scaling_keeps_high_and_divides_low_frequencies, test_gguf_rows_of_q_and_k_come_out_half_split,
          test_gguf_shape_equals_what_was_written, test_gguf_without_a_required_key_or_tensor_is_refused_by_name,
          test_gguf_numbers_out_of_range_are_refused_with_their_range, test_gguf_of_another_family_names_the_known_ones,
          test_gguf_with_more_tokens_than_rows_is_refused, test_gguf_rope_scaling_is_read_from_metadata_or_tensor,
          test_gguf_with_unknown_rope_scaling_is_refused, test_fingerprint_changes_with_any_weight_or_metadata)
