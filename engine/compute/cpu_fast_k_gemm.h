/* cpu_fast_k_gemm - linear: tiles of rows over a panel, unpacked in registers or once into cache.
 *
 * Part of cpu_fast_kernels.h. Few rows read the packed panel; many rows pay for unpacking four-bit weights once. Both
 * do the same sums in the same order (cpu_fast.h). For many rows long K is cut into chunks that stay in the first-level
 * cache; between chunks the sum rests in `out`, which rounds nothing.
 */
#ifndef HEARTH_COMPUTE_CPU_FAST_K_GEMM_H
#define HEARTH_COMPUTE_CPU_FAST_K_GEMM_H

#define CHUNK_BLOCKS 24  /* blocks of 32 inputs of a chunk, for many rows */
#define CHUNK_F      256 /* inputs of a float panel that are unpacked at a time */
#define FEW_ROWS     8   /* that are multiplied straight from the packed panel */

enum kind { KIND_Q4_0, KIND_Q4_1, KIND_Q8_0 };

/* A chunk of a panel, unpacked. */
struct chunk {
    int16_t w[CHUNK_BLOCKS][QUANT_BLOCK / 2][PANEL][2]; /* [block][pair of inputs][column] */
    float d[CHUNK_BLOCKS][PANEL], m[CHUNK_BLOCKS][PANEL];
};

_Static_assert(sizeof(struct chunk) <= FAST_SCRATCH, "scratch holds a chunk");

/* Some rows of activations against blocks of a panel. */
struct tile {
    const uint8_t *packed;
    const struct chunk *chunk;
    const int16_t *q;
    const float *d, *s;
    const int32_t *sum;
    int64_t k; /* inputs from row to row */
    int32_t blocks;
    float *out;
    int64_t out_stride;
    int n;                /* columns to store */
    bool more;            /* not the first chunk: add to out */
    const uint8_t *ahead; /* packed bytes that come next, to be fetched from memory meanwhile; or NULL */
};

LANE size_t quant_bytes(enum kind kind)
{
    return kind == KIND_Q8_0 ? 512 : 256;
}

LANE size_t block_bytes(enum kind kind)
{
    return quant_bytes(kind) + (kind == KIND_Q4_1 ? 64 : 32);
}

/* Weights of the pair at place i of PAIR_ORDER in 16 columns. */
LANE struct vi pair_weights(const uint8_t *p, enum kind kind, int i)
{
    return kind == KIND_Q8_0 ? vi_from_s8(p + 2 * PANEL * i) : vi_nibble(vi_load(p + 4 * PANEL * (i / 4)), i % 4);
}

/* dot[r] += w . x of the two inputs at q, for R rows k apart */
LANE void dot_rows(struct vi *dot, struct vi w, const int16_t *q, int64_t k, const int R)
{
    UNROLL for (int r = 0; r < R; r++) dot[r] = dot2(dot[r], w, vi_pair(q + r * k));
}

/* The integer product as s32, the zero of the weights taken off. */
LANE struct vi dot_end(struct vi dot, enum kind kind, int32_t sum)
{
    return kind == KIND_Q4_0 ? vi_sub1(dot, 8 * sum) : dot;
}

/* acc + one block: dot = the integer product, dw and mw the panel's scales, d and s the row's. */
LANE struct vf add_block(struct vf acc, struct vi dot, enum kind kind, struct vf dw, struct vf mw, float d, float s)
{
    acc = vf_fma(vf_mul(dw, vf_set1(d)), vf_from_s32(dot), acc);
    return kind == KIND_Q4_1 ? vf_fma(mw, vf_set1(s), acc) : acc;
}

LANE void tile_rows(const struct tile *t, enum kind kind, const bool unpacked, const int R)
{
    struct vf acc[ROWS_MAX];
    UNROLL for (int r = 0; r < R; r++) acc[r] = t->more ? vf_load_n(t->out + r * t->out_stride, t->n) : vf_set1(0);
    int64_t blocks = t->k / QUANT_BLOCK;
    const int16_t *q = t->q;
    for (int32_t b = 0; b < t->blocks; b++, q += QUANT_BLOCK) {
        const uint8_t *p = t->packed + (size_t)b * block_bytes(kind), *scales = p + quant_bytes(kind);
        struct vi dot[ROWS_MAX];
        struct vf dw, mw;
        if (t->ahead)
            for (size_t i = 0; i < block_bytes(kind); i += 64)
                __builtin_prefetch(t->ahead + (size_t)b * block_bytes(kind) + i);
        UNROLL for (int r = 0; r < R; r++) dot[r] = vi_zero();
        if (unpacked) {
            UNROLL for (int i = 0; i < 16; i++) dot_rows(dot, vi_load(t->chunk->w[b][i]), q + 2 * i, t->k, R);
            dw = vf_load(t->chunk->d[b]);
            mw = kind == KIND_Q4_1 ? vf_load(t->chunk->m[b]) : dw;
        } else {
            UNROLL for (int i = 0; i < 16; i++) dot_rows(dot, pair_weights(p, kind, i), q + 2 * i, t->k, R);
            dw = vf_from_f16(scales);
            mw = kind == KIND_Q4_1 ? vf_from_f16(scales + 2 * PANEL) : dw;
        }
        UNROLL for (int r = 0; r < R; r++)
        {
            int64_t at = r * blocks + b;
            acc[r] = add_block(acc[r], dot_end(dot[r], kind, t->sum[at]), kind, dw, mw, t->d[at], t->s[at]);
        }
    }
    UNROLL for (int r = 0; r < R; r++) vf_store_n(t->out + r * t->out_stride, acc[r], t->n);
}

/* Blocks [0, blocks) of a packed panel into c. */
LANE void unpack(struct chunk *c, const uint8_t *p, enum kind kind, int32_t blocks)
{
    for (int32_t b = 0; b < blocks; b++, p += block_bytes(kind)) {
        UNROLL for (int i = 0; i < 16; i++) vi_store(c->w[b][i], pair_weights(p, kind, i));
        vf_store(c->d[b], vf_from_f16(p + quant_bytes(kind)));
        if (kind == KIND_Q4_1)
            vf_store(c->m[b], vf_from_f16(p + quant_bytes(kind) + 2 * PANEL));
    }
}

/* All rows of the piece against blocks [b, b + n_blocks) of panel i. */
LANE void chunk_rows(const struct fast_gemm *g, enum kind kind, const bool unpacked, int32_t i, int32_t b,
                     int32_t n_blocks, struct chunk *c)
{
    const struct fast_acts *a = g->acts;
    int64_t blocks = a->k / QUANT_BLOCK;
    struct tile t = {.packed = g->panels + (size_t)(i * blocks + b) * block_bytes(kind),
                     .chunk = c,
                     .k = a->k,
                     .blocks = n_blocks,
                     .out_stride = g->out_stride,
                     .n = g->n - i * PANEL,
                     .more = b > 0};
    t.ahead = t.packed + (size_t)n_blocks * block_bytes(kind);
    if (unpacked)
        unpack(c, t.packed, kind, n_blocks);
    for (int32_t r = g->row0; r < g->row1; r += ROWS_Q, t.ahead = NULL) {
        int64_t at = r * blocks + b;
        int left = g->row1 - r < ROWS_Q ? g->row1 - r : ROWS_Q;
        t.q = a->q + at * QUANT_BLOCK;
        t.d = a->d + at;
        t.s = a->s + at;
        t.sum = a->sum + at;
        t.out = g->out + r * g->out_stride + i * PANEL;
        WITH_ROWS(left, ROWS_Q, tile_rows, &t, kind, unpacked)
    }
}

LANE void gemm_blocks(const struct fast_gemm *g, enum kind kind, struct chunk *c)
{
    int32_t blocks = g->acts->k / QUANT_BLOCK, n_chunks = (blocks + CHUNK_BLOCKS - 1) / CHUNK_BLOCKS;
    bool few = g->row1 - g->row0 <= FEW_ROWS;
    int32_t step = few ? blocks : (blocks + n_chunks - 1) / n_chunks;
    for (int32_t i = g->panel0; i < g->panel1; i++)
        for (int32_t b = 0; b < blocks; b += step) {
            int32_t n = blocks - b < step ? blocks - b : step;
            if (few)
                chunk_rows(g, kind, false, i, b, n, c);
            else
                chunk_rows(g, kind, true, i, b, n, c);
        }
}

/* -- float weights */

/* c[rows][n] (+)= a[rows][k] * b[k][n] with row strides as, bs, cs; b is readable to a multiple of 16 columns. Also the
 * products of attention. */
struct mm {
    const float *a, *b;
    float *c;
    int64_t as, bs, cs;
    int32_t k;
    int n;
    bool more; /* add to c */
};

/* R rows x C times 16 columns from column `at` on: R * C independent chains of sums. */
LANE void mm_tile(const struct mm *m, int at, const int C, const int R)
{
    struct vf acc[ROWS_MAX];
    float *c = m->c + at;
    int n = m->n - at;
    UNROLL for (int i = 0; i < R * C; i++) acc[i] = m->more ? vf_load_n(c + i / C * m->cs + i % C * 16, n - i % C * 16)
                                                            : vf_set1(0);
    const float *a = m->a, *b = m->b + at;
    for (int32_t k = 0; k < m->k; k++, a++, b += m->bs) {
        struct vf v[2] = {vf_load(b), C > 1 ? vf_load(b + 16) : vf_set1(0)};
        UNROLL for (int i = 0; i < R * C; i++) acc[i] = vf_fma(v[i % C], vf_set1(a[i / C * m->as]), acc[i]);
    }
    UNROLL for (int i = 0; i < R * C; i++) vf_store_n(c + i / C * m->cs + i % C * 16, acc[i], n - i % C * 16);
}

/* Few rows go two columns of 16 at a time, to have enough chains. */
static void mm(struct mm m, int32_t rows)
{
    for (; rows > 0; rows -= ROWS_F, m.a += ROWS_F * m.as, m.c += ROWS_F * m.cs) {
        int left = rows < ROWS_F ? rows : ROWS_F, at = 0;
        for (; 2 * left <= ROWS_F && at + 16 < m.n; at += 32)
            WITH_ROWS(left, ROWS_F / 2, mm_tile, &m, at, 2)
        for (; at < m.n; at += 16)
            WITH_ROWS(left, ROWS_F, mm_tile, &m, at, 1)
    }
}

LANE struct vf float_weights(const uint8_t *p, uint32_t dtype)
{
    if (dtype == DT_F32)
        return vf_load((const float *)(const void *)p);
    return dtype == DT_F16 ? vf_from_f16(p) : vf_from_bf16(p);
}

/* One row against P panels that lie one after the other: P independent chains hide the latency of the sums. */
LANE void one_row_f(const struct fast_gemm *g, uint32_t dtype, int32_t panel, const int P)
{
    int32_t k = g->acts->k;
    size_t size = dtype == DT_F32 ? 64 : 32, stride = size * (size_t)k;
    const float *x = g->acts->x + (int64_t)g->row0 * k;
    const uint8_t *p = g->panels + stride * (size_t)panel;
    struct vf acc[4];
    UNROLL for (int i = 0; i < P; i++) acc[i] = vf_set1(0);
    for (int32_t j = 0; j < k; j++, p += size)
        UNROLL for (int i = 0; i < P; i++)
            acc[i] = vf_fma(float_weights(p + stride * (size_t)i, dtype), vf_set1(x[j]), acc[i]);
    float *out = g->out + g->row0 * g->out_stride + panel * PANEL;
    UNROLL for (int i = 0; i < P; i++) vf_store_n(out + i * PANEL, acc[i], g->n - (panel + i) * PANEL);
}

LANE void panel_rows_f(const struct fast_gemm *g, uint32_t dtype, int32_t panel, float *chunk)
{
    int32_t k = g->acts->k, rows = g->row1 - g->row0;
    size_t size = dtype == DT_F32 ? 64 : 32;
    const uint8_t *p = g->panels + size * (size_t)k * (size_t)panel;
    int n = g->n - panel * PANEL;
    struct mm m = {.bs = PANEL, .as = k, .cs = g->out_stride, .n = n < PANEL ? n : PANEL};
    for (int32_t k0 = 0; k0 < k; k0 += CHUNK_F) {
        m.k = k - k0 < CHUNK_F ? k - k0 : CHUNK_F;
        for (int32_t j = 0; j < m.k; j++)
            vf_store(chunk + j * PANEL, float_weights(p + size * (size_t)(k0 + j), dtype));
        m.a = g->acts->x + (int64_t)g->row0 * k + k0;
        m.b = chunk;
        m.c = g->out + g->row0 * g->out_stride + panel * PANEL;
        m.more = k0 > 0;
        mm(m, rows);
    }
}

LANE void gemm_floats(const struct fast_gemm *g, uint32_t dtype, float *chunk)
{
    int32_t i = g->panel0;
    if (g->row1 - g->row0 > 1) {
        for (; i < g->panel1; i++)
            panel_rows_f(g, dtype, i, chunk);
        return;
    }
    for (; i + 4 <= g->panel1; i += 4)
        one_row_f(g, dtype, i, 4);
    for (; i < g->panel1; i++)
        one_row_f(g, dtype, i, 1);
}

static void k_gemm(const struct fast_gemm *g, void *scratch)
{
    switch (g->dtype) {
    case DT_Q4_0:
        gemm_blocks(g, KIND_Q4_0, scratch);
        break;
    case DT_Q4_1:
        gemm_blocks(g, KIND_Q4_1, scratch);
        break;
    case DT_Q8_0:
        gemm_blocks(g, KIND_Q8_0, scratch);
        break;
    case DT_F32:
        gemm_floats(g, DT_F32, scratch);
        break;
    case DT_F16:
        gemm_floats(g, DT_F16, scratch);
        break;
    case DT_BF16:
        gemm_floats(g, DT_BF16, scratch);
        break;
    default:
        assert(!"weight_load takes no other type");
    }
}

#endif
