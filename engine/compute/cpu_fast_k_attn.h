/* cpu_fast_k_attn - attention of some query vectors over the keys of one piece.
 *
 * Part of cpu_fast_kernels.h. Keys go in tiles of 32 at absolute positions, whatever the block size. A tile is read
 * once (widened to float, keys transposed so that a lane is a key) and serves all query vectors: the heads of the group
 * and, in prefill, many rows. Scores are q.k with one sum over the dimensions, softmax is online per vector (Milakov &
 * Gimelshein 2018), values are added key by key. A key that a row does not see has weight 0, which adds nothing, so the
 * bits of a row do not depend on the rows beside it.
 */
#ifndef HEARTH_COMPUTE_CPU_FAST_K_ATTN_H
#define HEARTH_COMPUTE_CPU_FAST_K_ATTN_H

#include "engine/kv/fmt_kv16.h"
#include "engine/kv/fmt_kv32.h"
#include "engine/kv/fmt_kv8.h"

struct attn_work {
    float q[ATTN_Q * ATTN_D]; /* [vector][dp], scaled; dp = head_dim rounded up to 16 */
    float o[ATTN_Q * ATTN_D]; /* [vector][dp], not yet divided by l */
    float s[ATTN_Q][KEY_TILE];
    float k[ATTN_D][KEY_TILE];      /* transposed */
    float v[KEY_TILE * ATTN_D];     /* [key][dp] */
    float row[8 * ATTN_D];          /* [key][dp] */
    float m[ATTN_Q], l[ATTN_Q];     /* running maximum, sum of exp(s - m) */
    int32_t lo[ATTN_Q], hi[ATTN_Q]; /* of each row: sees keys [lo, hi) */
};

_Static_assert(sizeof(struct attn_work) <= FAST_SCRATCH, "scratch holds the work of attention");
_Static_assert(KEY_TILE == 32 && KEY_PIECE % KEY_TILE == 0, "two vectors of keys a tile, whole tiles a piece");

static void k_kv_put(void *row, const float *x, uint32_t dim, uint32_t format, float scale)
{
    if (format == KV_FORMAT_KV16)
        kv16_put(row, x, dim);
    else if (format == KV_FORMAT_KV8)
        kv8_put(row, x, dim, scale);
    else
        kv32_put(row, x, dim);
}

/* Row i of the keys or values (v) of a sequence from `key` on, eight of which lie in one block. */
LANE const uint8_t *kv_at(const struct fast_attn *t, int v, int32_t key)
{
    const struct kv_view *kv = t->args->kv;
    const struct step *step = t->args->step;
    uint32_t at = (uint32_t)key / kv->block_tokens, token = (uint32_t)key % kv->block_tokens;
    int32_t block = step->table[step->table_at[step->row_seq[t->row0]] + (int32_t)at];
    return kv_row(kv, block, (uint32_t)t->kv_head, v, token);
}

/* to[8][dp] = keys [key, key + 8) as floats; outside [lo, hi) zero: nothing may ever have been written there. */
LANE void kv_get8(float *to, const struct fast_attn *t, int v, int32_t key, int32_t lo, int32_t hi, uint32_t dp)
{
    const struct kv_view *kv = t->args->kv;
    const float scale = kv_scale(kv, (uint32_t)t->kv_head, v);
    const uint8_t *from = key < hi && key + 8 > lo ? kv_at(t, v, key) : kv->base;
    for (int i = 0; i < 8; i++, from += kv->row_stride, to += dp) {
        if (key + i < lo || key + i >= hi)
            memset(to, 0, dp * sizeof *to);
        else if (kv->format == KV_FORMAT_KV8)
            kv8_get(to, (const void *)from, kv->head_dim, scale);
        else if (kv->format == KV_FORMAT_KV32)
            kv32_get(to, (const void *)from, kv->head_dim);
        else if (kv->head_dim % 16)
            kv16_get(to, (const void *)from, kv->head_dim);
        else
            for (uint32_t d = 0; d < dp; d += 16)
                vf_store(to + d, vf_from_bf16(from + 2 * d));
    }
}

/* to[8][KEY_TILE] = transpose of from[8][dp], eight by eight */
LANE void transpose8(float *to, const float *from, uint32_t dp)
{
    __m256 r[8], t[8];
    UNROLL for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(from + i * dp);
    UNROLL for (int i = 0; i < 8; i += 2)
    {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 8; i += 4)
    {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        _mm256_storeu_ps(to + i * KEY_TILE, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * KEY_TILE, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

/* Two dimensions, d and d + 8, of eight keys: halves to floats to rows d and d + 8. */
LANE void put_pair(float *to, __m256i halves)
{
    __m256i zero = _mm256_setzero_si256(), a = _mm256_unpacklo_epi16(zero, halves),
            b = _mm256_unpackhi_epi16(zero, halves);
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_permute2x128_si256(a, b, 0x20));
    _mm256_storeu_si256((__m256i *)(void *)(to + 8 * KEY_TILE), _mm256_permute2x128_si256(a, b, 0x31));
}

/* to[16][KEY_TILE] = transpose of 16 bfloat16 of eight keys, `stride` bytes apart */
LANE void transpose_bf16(float *to, const uint8_t *from, uint64_t stride)
{
    __m256i r[8], t[8];
    UNROLL for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_si256((const __m256i *)(const void *)(from + i * stride));
    UNROLL for (int i = 0; i < 8; i += 2)
    {
        t[i] = _mm256_unpacklo_epi16(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi16(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 8; i += 4)
    {
        r[i] = _mm256_unpacklo_epi32(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi32(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi32(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi32(t[i + 1], t[i + 3]);
    }
    UNROLL for (int i = 0; i < 4; i++)
    {
        put_pair(to + 2 * i * KEY_TILE, _mm256_unpacklo_epi64(r[i], r[i + 4]));
        put_pair(to + (2 * i + 1) * KEY_TILE, _mm256_unpackhi_epi64(r[i], r[i + 4]));
    }
}

/* Keys [key, key + 8) of a sequence into columns of the tile. */
LANE void load_keys8(struct attn_work *w, const struct fast_attn *t, int32_t key, int32_t lo, int32_t hi, uint32_t dp)
{
    const struct kv_view *kv = t->args->kv;
    float *to = &w->k[0][key % KEY_TILE];
    if (kv->format == KV_FORMAT_KV16 && kv->head_dim % 16 == 0 && key >= lo && key + 8 <= hi) {
        const uint8_t *from = kv_at(t, 0, key);
        for (uint32_t d = 0; d < dp; d += 16)
            transpose_bf16(to + d * KEY_TILE, from + 2 * d, kv->row_stride);
    } else {
        kv_get8(w->row, t, 0, key, lo, hi, dp);
        for (uint32_t d = 0; d < dp; d += 8)
            transpose8(to + d * KEY_TILE, w->row + d, dp);
    }
}

/* Keys and values of the tile at key0, of which some row sees [lo, hi). */
LANE void load_tile(struct attn_work *w, const struct fast_attn *t, int32_t key0, int32_t lo, int32_t hi, uint32_t dp)
{
    for (int i = 0; i < KEY_TILE; i += 8) {
        load_keys8(w, t, key0 + i, lo, hi, dp);
        kv_get8(w->v + i * dp, t, 1, key0 + i, lo, hi, dp);
    }
}

/* Vector i: scores to weights exp(s - m); it sees keys [from, to), counted from the tile's first. Rescales what it has
 * summed so far. */
LANE void soften(struct attn_work *w, int32_t i, int from, int to, uint32_t dp)
{
    float *s = w->s[i];
    struct vf none = vf_set1(-INFINITY), a = none, b = none;
    if (from < KEY_TILE && to > 0 && from < to) {
        a = vf_load(s);
        b = vf_load(s + 16);
        if (from > 0 || to < KEY_TILE) {
            a = vf_between(a, none, from, to);
            b = vf_between(b, none, from - 16, to - 16);
        }
        float top = max8(fold_max(vf_max(a, b)));
        if (top > w->m[i]) {
            struct vf by = vf_exp(vf_set1(w->m[i] - top));
            w->l[i] *= max8(fold_max(by));
            for (uint32_t d = 0; d < dp; d += 16)
                vf_store(w->o + i * dp + d, vf_mul(vf_load(w->o + i * dp + d), by));
            w->m[i] = top;
        }
        struct vf m = vf_set1(w->m[i]);
        a = vf_exp(vf_sub(a, m));
        b = vf_exp(vf_sub(b, m));
        w->l[i] += sum8(fold_add(vf_add(a, b)));
    } else {
        a = b = vf_set1(0);
    }
    vf_store(s, a);
    vf_store(s + 16, b);
}

LANE void begin(struct attn_work *w, const struct fast_attn *t, uint32_t dp)
{
    const struct attn_args *a = t->args;
    uint32_t dim = a->kv->head_dim;
    for (int32_t r = 0; r < t->n_rows; r++) {
        int32_t pos = a->step->pos[t->row0 + r], lo = a->window ? pos - a->window + 1 : 0;
        w->lo[r] = lo > t->key0 ? lo : t->key0;
        w->hi[r] = pos + 1 < t->key1 ? pos + 1 : t->key1;
        const float *q = a->q + (t->row0 + r) * a->q_stride + (int64_t)t->head0 * dim;
        for (int32_t h = 0; h < t->n_heads; h++, q += dim)
            for (uint32_t d = 0; d < dim; d += 16) {
                int n = (int)(dim - d);
                vf_store(w->q + (r * t->n_heads + h) * dp + d, vf_mul(vf_load_n(q + d, n), vf_set1(a->scale)));
            }
    }
    int32_t n = t->n_rows * t->n_heads;
    for (int32_t i = 0; i < n; i++) {
        w->m[i] = -INFINITY;
        w->l[i] = 0;
    }
    memset(w->o, 0, (size_t)n * dp * sizeof *w->o);
    if (dp != dim) { /* columns between head_dim and dp stay 0 */
        memset(w->row, 0, 8 * dp * sizeof *w->row);
        memset(w->v, 0, KEY_TILE * dp * sizeof *w->v);
    }
}

LANE void finish(const struct attn_work *w, const struct fast_attn *t, uint32_t dp)
{
    int dim = (int)t->args->kv->head_dim;
    for (int32_t i = 0; i < t->n_rows * t->n_heads; i++) {
        float l = w->l[i];
        struct vf by = vf_set1(l == 0 ? 0.0f : 1.0f / l);
        t->lse[i] = l == 0 ? -INFINITY : w->m[i] + logf(l);
        for (int d = 0; d < dim; d += 16)
            vf_store_n(t->o + i * dim + d, vf_mul(vf_load(w->o + i * (int)dp + d), by), dim - d);
    }
}

/* s[n][KEY_TILE] = q[n][dim] * k[dim][KEY_TILE] */
LANE void score(struct attn_work *w, int32_t n, int32_t dim, int32_t dp)
{
    mm(
        (struct mm){
            .a = w->q, .as = dp, .b = w->k[0], .bs = KEY_TILE, .c = w->s[0], .cs = KEY_TILE, .k = dim, .n = KEY_TILE},
        n);
}

/* o[n][dp] += s[n][KEY_TILE] * v[KEY_TILE][dp] */
LANE void add_values(struct attn_work *w, int32_t n, int32_t dp)
{
    mm((struct mm){.a = w->s[0],
                   .as = KEY_TILE,
                   .b = w->v,
                   .bs = dp,
                   .c = w->o,
                   .cs = dp,
                   .k = KEY_TILE,
                   .n = dp,
                   .more = true},
       n);
}

static void k_attend(const struct fast_attn *t, void *scratch)
{
    struct attn_work *w = scratch;
    uint32_t dim = t->args->kv->head_dim, dp = (dim + 15) & ~15u;
    int32_t n = t->n_rows * t->n_heads;
    begin(w, t, dp);
    int32_t lo = INT32_MAX, hi = 0; /* keys that any row sees */
    for (int32_t r = 0; r < t->n_rows; r++) {
        if (w->lo[r] >= w->hi[r])
            continue;
        lo = w->lo[r] < lo ? w->lo[r] : lo;
        hi = w->hi[r] > hi ? w->hi[r] : hi;
    }
    for (int32_t key = lo / KEY_TILE * KEY_TILE; key < hi; key += KEY_TILE) {
        load_tile(w, t, key, lo, hi, dp);
        score(w, n, (int32_t)dim, (int32_t)dp);
        for (int32_t r = 0, i = 0; r < t->n_rows; r++)
            for (int32_t h = 0; h < t->n_heads; h++, i++)
                soften(w, i, w->lo[r] - key, w->hi[r] - key, dp);
        add_values(w, n, (int32_t)dp);
    }
    finish(w, t, dp);
}

#endif
