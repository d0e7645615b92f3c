/* cpu_fast_k_rows - kernels on one row: exponential, sums, quantisation, norm, SiLU, rotation, merge.
 *
 * Part of cpu_fast_kernels.h. Sums over a row: 16 lanes, each adding every 16th element in order, then lane i + 8, i +
 * 4, i + 2, i + 1: the same on every ISA.
 */
#ifndef HEARTH_COMPUTE_CPU_FAST_K_ROWS_H
#define HEARTH_COMPUTE_CPU_FAST_K_ROWS_H

LANE float sum8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

LANE float max8(__m256 v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* e^x: 2^n * e^r with n = round(x / ln 2), |r| <= ln 2 / 2, e^r by its Taylor polynomial of degree 7 in Horner form
 * (relative error under 2e-7). Below -87 it is 0, above 88 it stays e^88; NaN stays NaN. */
LANE struct vf vf_exp(struct vf x)
{
    struct vf lo = vf_set1(-87.0f);
    struct vf y = vf_min(vf_set1(88.0f), vf_max(lo, x));
    struct vf n = vf_round(vf_mul(y, vf_set1(1.44269504f)));
    struct vf r = vf_fma(n, vf_set1(-0.693359375f), y);
    r = vf_fma(n, vf_set1(2.12194440e-4f), r);
    struct vf p = vf_set1(1.0f / 5040);
    p = vf_fma(p, r, vf_set1(1.0f / 720));
    p = vf_fma(p, r, vf_set1(1.0f / 120));
    p = vf_fma(p, r, vf_set1(1.0f / 24));
    p = vf_fma(p, r, vf_set1(1.0f / 6));
    p = vf_fma(p, r, vf_set1(0.5f));
    p = vf_fma(p, r, vf_set1(1.0f));
    p = vf_fma(p, r, vf_set1(1.0f));
    return vf_keep_ge(vf_mul(p, vf_pow2(n)), x, lo);
}

/* Integers 4g .. 4g+3 of a and of b (g = 0 in the low half, 1 in the high half of each) in PAIR_ORDER. */
LANE __m256i in_pairs(__m256i a, __m256i b)
{
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, /* both halves alike */
                                           0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    return _mm256_shuffle_epi8(_mm256_packs_epi32(a, b), order);
}

/* One block of 32: x = d * q. Returns d; *sum = sum(q). */
LANE float quantise_block(int16_t *q, int32_t *sum, const float *x)
{
    __m256 v[4], sign = _mm256_set1_ps(-0.0f), top = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        top = _mm256_max_ps(top, _mm256_andnot_ps(sign, v[i]));
    }
    float most = max8(top), d = most / 32767.0f, inv = most > 0 ? 32767.0f / most : 0.0f;
    __m256i n[4];
    for (int i = 0; i < 4; i++)
        n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inv)));
    __m256i s = _mm256_add_epi32(_mm256_add_epi32(n[0], n[1]), _mm256_add_epi32(n[2], n[3]));
    __m128i s4 = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    s4 = _mm_add_epi32(s4, _mm_shuffle_epi32(s4, 0x4e));
    *sum = _mm_cvtsi128_si32(s4) + _mm_extract_epi32(s4, 1);
    _mm256_storeu_si256((__m256i *)(void *)q, in_pairs(n[0], n[2]));
    _mm256_storeu_si256((__m256i *)(void *)(q + 16), in_pairs(n[1], n[3]));
    return d;
}

static void k_quantise(const struct fast_acts *a, int32_t row0, int32_t row1)
{
    int64_t blocks = a->k / QUANT_BLOCK;
    for (int64_t i = row0 * blocks; i < row1 * blocks; i++) {
        a->d[i] = quantise_block(a->q + i * QUANT_BLOCK, &a->sum[i], a->x + i * QUANT_BLOCK);
        a->s[i] = a->d[i] * (float)a->sum[i];
    }
}

static void k_add_norm(float *out, float *x, const float *add, const float *w, float eps, int32_t width)
{
    struct vf square = vf_set1(0);
    for (int32_t i = 0; i < width; i += 16) {
        int n = width - i;
        struct vf v = vf_load_n(x + i, n);
        if (add) {
            v = vf_add(v, vf_load_n(add + i, n));
            vf_store_n(x + i, v, n);
        }
        square = vf_fma(v, v, square);
    }
    if (!out)
        return;
    struct vf by = vf_set1(1.0f / sqrtf(sum8(fold_add(square)) / (float)width + eps));
    for (int32_t i = 0; i < width; i += 16) {
        int n = width - i;
        vf_store_n(out + i, vf_mul(vf_mul(vf_load_n(x + i, n), by), vf_load_n(w + i, n)), n);
    }
}

static void k_silu_mul(float *out, const float *gu, int32_t f)
{
    struct vf one = vf_set1(1);
    for (int32_t i = 0; i < f; i += 16) {
        int n = f - i;
        struct vf g = vf_load_n(gu + i, n), u = vf_load_n(gu + f + i, n);
        struct vf e = vf_exp(vf_sub(vf_set1(0), g));
        vf_store_n(out + i, vf_mul(vf_div(g, vf_add(one, e)), u), n);
    }
}

/* (a, b) := (a cos - b sin, a sin + b cos) for the pairs (i, i + half) */
static void k_rotate(float *head, const float *cs, int32_t half)
{
    for (int32_t i = 0; i < half; i += 16) {
        int n = half - i;
        struct vf a = vf_load_n(head + i, n), b = vf_load_n(head + half + i, n);
        struct vf c = vf_load_n(cs + i, n), s = vf_load_n(cs + half + i, n);
        vf_store_n(head + i, vf_sub(vf_mul(a, c), vf_mul(b, s)), n);
        vf_store_n(head + half + i, vf_fma(a, s, vf_mul(b, c)), n);
    }
}

static void k_merge(float *oa, float *la, const float *ob, float lb, int32_t d)
{
    if (lb == -INFINITY)
        return;
    if (*la == -INFINITY) {
        memcpy(oa, ob, (size_t)d * sizeof *oa);
        *la = lb;
        return;
    }
    float m = *la > lb ? *la : lb, wa = expf(*la - m), wb = expf(lb - m), inv = 1.0f / (wa + wb);
    struct vf va = vf_set1(wa * inv), vb = vf_set1(wb * inv);
    for (int32_t i = 0; i < d; i += 16) {
        int n = d - i;
        vf_store_n(oa + i, vf_fma(vf_load_n(oa + i, n), va, vf_mul(vf_load_n(ob + i, n), vb)), n);
    }
    *la = m + logf(wa + wb);
}

#endif
