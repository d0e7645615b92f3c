/* cpu_fast_avx512 - the kernels of cpu_fast for AVX-512 (F, BW, VL, DQ) with VNNI: 16 lanes are one register.
 */
#include "engine/compute/cpu_fast.h"

#include <immintrin.h>
#include <string.h>

#define ISA_TABLE fast_isa_avx512
#define ISA_NAME  "AVX-512"

/* Rows that a tile holds in its 32 registers. */
#define ROWS_Q 8
#define ROWS_F 8

#define LANE static inline __attribute__((always_inline))

struct vf { /* 16 floats */
    __m512 v;
};
struct vi { /* 16 x s32, or 64 bytes */
    __m512i v;
};

LANE struct vf vf_set1(float x)
{
    return (struct vf){_mm512_set1_ps(x)};
}

LANE struct vf vf_load(const float *p)
{
    return (struct vf){_mm512_loadu_ps(p)};
}

LANE void vf_store(float *p, struct vf v)
{
    _mm512_storeu_ps(p, v.v);
}

/* Lane i of the mask is on for i < n. */
LANE __mmask16 mask16(int n)
{
    return n <= 0 ? 0 : n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}

/* The first n of 16 lanes; the rest 0. */
LANE struct vf vf_load_n(const float *p, int n)
{
    return (struct vf){_mm512_maskz_loadu_ps(mask16(n), p)};
}

LANE void vf_store_n(float *p, struct vf v, int n)
{
    _mm512_mask_storeu_ps(p, mask16(n), v.v);
}

LANE struct vf vf_from_f16(const void *p)
{
    return (struct vf){_mm512_cvtph_ps(_mm256_loadu_si256(p))};
}

LANE struct vf vf_from_bf16(const void *p)
{
    return (struct vf){_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16))};
}

#define VF_OP2(name, op)                           \
    LANE struct vf name(struct vf x, struct vf y)  \
    {                                              \
        return (struct vf){_mm512_##op(x.v, y.v)}; \
    }
VF_OP2(vf_add, add_ps)
VF_OP2(vf_sub, sub_ps)
VF_OP2(vf_mul, mul_ps)
VF_OP2(vf_div, div_ps)
VF_OP2(vf_min, min_ps)
VF_OP2(vf_max, max_ps)

LANE struct vf vf_fma(struct vf x, struct vf y, struct vf z)
{
    return (struct vf){_mm512_fmadd_ps(x.v, y.v, z.v)};
}

LANE struct vf vf_round(struct vf x)
{
    return (struct vf){_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

/* 2^n of whole n in -126 .. 127 */
LANE struct vf vf_pow2(struct vf n)
{
    __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
    return (struct vf){_mm512_castsi512_ps(_mm512_slli_epi32(e, 23))};
}

/* y where x is not below lo, else 0 */
LANE struct vf vf_keep_ge(struct vf y, struct vf x, struct vf lo)
{
    return (struct vf){_mm512_maskz_mov_ps((__mmask16)~_mm512_cmp_ps_mask(x.v, lo.v, _CMP_LT_OQ), y.v)};
}

/* x in lanes [from, to), y elsewhere */
LANE struct vf vf_between(struct vf x, struct vf y, int from, int to)
{
    return (struct vf){_mm512_mask_mov_ps(y.v, (__mmask16)(mask16(to) & ~mask16(from)), x.v)};
}

/* The 16 lanes as 8: lane i with lane i + 8. */
LANE __m256 fold_add(struct vf v)
{
    return _mm256_add_ps(_mm512_castps512_ps256(v.v), _mm512_extractf32x8_ps(v.v, 1));
}

LANE __m256 fold_max(struct vf v)
{
    return _mm256_max_ps(_mm512_castps512_ps256(v.v), _mm512_extractf32x8_ps(v.v, 1));
}

LANE struct vf vf_from_s32(struct vi v)
{
    return (struct vf){_mm512_cvtepi32_ps(v.v)};
}

/* -- integers */
LANE struct vi vi_load(const void *p)
{
    return (struct vi){_mm512_loadu_si512(p)};
}

LANE void vi_store(void *p, struct vi v)
{
    _mm512_storeu_si512(p, v.v);
}

/* Bits 4i .. 4i+3 of each 16-bit lane. */
LANE struct vi vi_nibble(struct vi v, const int i)
{
    return (struct vi){_mm512_and_si512(_mm512_srli_epi16(v.v, 4 * i), _mm512_set1_epi16(15))};
}

/* 32 bytes to 16-bit lanes. */
LANE struct vi vi_from_s8(const uint8_t *p)
{
    return (struct vi){_mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)p))};
}

LANE struct vi vi_zero(void)
{
    return (struct vi){_mm512_setzero_si512()};
}

/* The two numbers at p in every 32-bit lane. */
LANE struct vi vi_pair(const int16_t *p)
{
    int32_t two;
    memcpy(&two, p, 4);
    return (struct vi){_mm512_set1_epi32(two)};
}

/* acc + w . x of two inputs a lane */
LANE struct vi dot2(struct vi acc, struct vi w, struct vi x)
{
    return (struct vi){_mm512_dpwssd_epi32(acc.v, w.v, x.v)};
}

LANE struct vi vi_sub1(struct vi v, int32_t x)
{
    return (struct vi){_mm512_sub_epi32(v.v, _mm512_set1_epi32(x))};
}

#include "engine/compute/cpu_fast_kernels.h"
