/* cpu_fast_avx2 - the kernels of cpu_fast for AVX2, FMA and F16C: 16 lanes are two registers.
 */
#include "engine/compute/cpu_fast.h"

#include <immintrin.h>
#include <string.h>

#define ISA_TABLE fast_isa_avx2
#define ISA_NAME  "AVX2"

/* Rows that a tile holds in its 16 registers. */
#define ROWS_Q 4
#define ROWS_F 6

#define LANE static inline __attribute__((always_inline))

struct vf { /* 16 floats */
    __m256 a, b;
};
struct vi { /* 16 x s32, or 64 bytes */
    __m256i a, b;
};

LANE struct vf vf_set1(float x)
{
    __m256 v = _mm256_set1_ps(x);
    return (struct vf){v, v};
}

LANE struct vf vf_load(const float *p)
{
    return (struct vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

LANE void vf_store(float *p, struct vf v)
{
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}

/* Lane i of the mask is on for i < n. */
LANE __m256i mask8(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first n of 16 lanes; the rest 0. */
LANE struct vf vf_load_n(const float *p, int n)
{
    if (n >= 16)
        return vf_load(p);
    return (struct vf){_mm256_maskload_ps(p, mask8(n)), _mm256_maskload_ps(p + 8, mask8(n - 8))};
}

LANE void vf_store_n(float *p, struct vf v, int n)
{
    if (n >= 16) {
        vf_store(p, v);
        return;
    }
    float lanes[16]; /* masked stores are slow on some processors */
    vf_store(lanes, v);
    for (int i = 0; i < n; i++)
        p[i] = lanes[i];
}

LANE struct vf vf_from_f16(const void *p)
{
    const __m128i *h = p;
    return (struct vf){_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
}

LANE struct vf vf_from_bf16(const void *p)
{
    const __m128i *h = p;
    __m256i a = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(h)), 16);
    __m256i b = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(h + 1)), 16);
    return (struct vf){_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)};
}

#define VF_OP2(name, op)                                                  \
    LANE struct vf name(struct vf x, struct vf y)                         \
    {                                                                     \
        return (struct vf){_mm256_##op(x.a, y.a), _mm256_##op(x.b, y.b)}; \
    }
VF_OP2(vf_add, add_ps)
VF_OP2(vf_sub, sub_ps)
VF_OP2(vf_mul, mul_ps)
VF_OP2(vf_div, div_ps)
VF_OP2(vf_min, min_ps)
VF_OP2(vf_max, max_ps)

LANE struct vf vf_fma(struct vf x, struct vf y, struct vf z)
{
    return (struct vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

LANE struct vf vf_round(struct vf x)
{
    return (struct vf){_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                       _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

LANE __m256 pow2_8(__m256 n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}

/* 2^n of whole n in -126 .. 127 */
LANE struct vf vf_pow2(struct vf n)
{
    return (struct vf){pow2_8(n.a), pow2_8(n.b)};
}

/* x where x >= lo, else 0; with y for x in the comparison: y where x >= lo, else 0. */
LANE struct vf vf_keep_ge(struct vf y, struct vf x, struct vf lo)
{
    return (struct vf){_mm256_andnot_ps(_mm256_cmp_ps(x.a, lo.a, _CMP_LT_OQ), y.a),
                       _mm256_andnot_ps(_mm256_cmp_ps(x.b, lo.b, _CMP_LT_OQ), y.b)};
}

/* x in lanes [from, to), y elsewhere */
LANE struct vf vf_between(struct vf x, struct vf y, int from, int to)
{
    __m256i a = _mm256_andnot_si256(mask8(from), mask8(to)), b = _mm256_andnot_si256(mask8(from - 8), mask8(to - 8));
    return (struct vf){_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(a)),
                       _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(b))};
}

/* The 16 lanes as 8: lane i with lane i + 8. */
LANE __m256 fold_add(struct vf v)
{
    return _mm256_add_ps(v.a, v.b);
}

LANE __m256 fold_max(struct vf v)
{
    return _mm256_max_ps(v.a, v.b);
}

LANE struct vf vf_from_s32(struct vi v)
{
    return (struct vf){_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)};
}

/* -- integers */
LANE struct vi vi_load(const void *p)
{
    const __m256i *q = p;
    return (struct vi){_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}

LANE void vi_store(void *p, struct vi v)
{
    __m256i *q = p;
    _mm256_storeu_si256(q, v.a);
    _mm256_storeu_si256(q + 1, v.b);
}

/* Bits 4i .. 4i+3 of each 16-bit lane. */
LANE struct vi vi_nibble(struct vi v, const int i)
{
    __m256i m = _mm256_set1_epi16(15);
    struct vi s = {_mm256_srli_epi16(v.a, 4 * i), _mm256_srli_epi16(v.b, 4 * i)};
    return i == 3 ? s : (struct vi){_mm256_and_si256(s.a, m), _mm256_and_si256(s.b, m)};
}

/* 32 bytes to 16-bit lanes. */
LANE struct vi vi_from_s8(const uint8_t *p)
{
    const __m128i *b = (const void *)p;
    return (struct vi){_mm256_cvtepi8_epi16(_mm_loadu_si128(b)), _mm256_cvtepi8_epi16(_mm_loadu_si128(b + 1))};
}

LANE struct vi vi_zero(void)
{
    return (struct vi){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

/* The two numbers at p in every 32-bit lane. */
LANE struct vi vi_pair(const int16_t *p)
{
    int32_t two;
    memcpy(&two, p, 4);
    __m256i v = _mm256_set1_epi32(two);
    return (struct vi){v, v};
}

/* acc + w . x of two inputs a lane. The empty asm holds acc in registers here: else the compiler turns the chain of
 * additions of a block into a tree and runs out of them. */
LANE struct vi dot2(struct vi acc, struct vi w, struct vi x)
{
    acc = (struct vi){_mm256_add_epi32(acc.a, _mm256_madd_epi16(w.a, x.a)),
                      _mm256_add_epi32(acc.b, _mm256_madd_epi16(w.b, x.b))};
    __asm__("" : "+x"(acc.a), "+x"(acc.b));
    return acc;
}

LANE struct vi vi_sub1(struct vi v, int32_t x)
{
    __m256i y = _mm256_set1_epi32(x);
    return (struct vi){_mm256_sub_epi32(v.a, y), _mm256_sub_epi32(v.b, y)};
}

#include "engine/compute/cpu_fast_kernels.h"
