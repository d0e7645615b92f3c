/* ptx - instructions of the tensor cores and of asynchronous copies that C++ has no name for; sm_80 and newer.
 *
 * Fragments as in the PTX manual, "Matrix fragments for mma.m16n8k16": lane = 4 r + c holds of A rows r, r + 8 and
 * columns 2c, 2c + 1, 2c + 8, 2c + 9; of B rows (k) 2c, 2c + 1, 2c + 8, 2c + 9 and column r; of C rows r, r + 8 and
 * columns 2c, 2c + 1.
 */
#ifndef HEARTH_CUDA_PTX_CUH
#define HEARTH_CUDA_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

static __device__ inline uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* -- copies into shared memory */

/* How L2 shall treat lines that are read once. */
static __device__ inline uint64_t policy_read_once(void)
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
    return policy;
}

/* 16 bytes to shared address `to`, both aligned to 16; zeros, and nothing is read, unless `there`. */
static __device__ inline void copy16(uint32_t to, const void *from, bool there, uint64_t policy)
{
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(to), "l"(from),
                 "r"(there ? 16 : 0), "l"(policy)
                 : "memory");
}

static __device__ inline void copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* All but the last n groups of this thread are there. */
template <int n> static __device__ inline void copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

/* -- matrices of 8 x 8 x 16 bit */

static __device__ inline void load_matrix4(uint32_t m[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(at)
                 : "memory");
}

static __device__ inline void load_matrix4_turned(uint32_t m[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(at)
                 : "memory");
}

/* Transpose. */
static __device__ inline uint32_t turn_matrix(uint32_t m)
{
    uint32_t t;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(t) : "r"(m));
    return t;
}

/* c[16][8] += a[16][16] b[16][8], bfloat16 or half in, float out. */
static __device__ inline void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ inline void mma_f16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* -- numbers */

/* Two floats as bfloat16 or half, the first in the low half. */
static __device__ inline uint32_t pack_bf16(float lo, float hi)
{
    __nv_bfloat162 h = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&h;
}

static __device__ inline uint32_t pack_f16(float lo, float hi)
{
    __half2 h = __floats2half2_rn(lo, hi);
    return *(uint32_t *)&h;
}

/* Four e4m3 bytes as half, exactly: bytes 0 and 1, bytes 2 and 3. */
static __device__ inline void widen_e4m3(uint32_t x, uint32_t *lo, uint32_t *hi)
{
#if __CUDA_ARCH__ >= 890
    asm("{ .reg .b16 a, b; mov.b32 {a, b}, %2; cvt.rn.f16x2.e4m3x2 %0, a; cvt.rn.f16x2.e4m3x2 %1, b; }"
        : "=r"(*lo), "=r"(*hi)
        : "r"(x));
#else /* as a half whose exponent is 8 too small */
    uint32_t h[2] = {__byte_perm(x, 0, 0x1404), __byte_perm(x, 0, 0x3424)};
    for (int i = 0; i < 2; i++) {
        h[i] = (h[i] & 0x80008000u) | (h[i] >> 1 & 0x3f803f80u);
        __half2 y = __hmul2(*(__half2 *)&h[i], __float2half2_rn(256.0f));
        *(i ? hi : lo) = *(uint32_t *)&y;
    }
#endif
}

/* 2^x, off by 2 units in the last place. */
static __device__ inline float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
