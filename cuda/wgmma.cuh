/* wgmma - Hopper's warpgroup matrix instructions (PTX ISA 9.7.15): D[64][N] f32 += A[64][16] B[16][N], bf16.
 *
 * A warpgroup is four warps; thread t of it holds, of D, rows 16 (t/32) + t%32/4 and 8 more, and of each 8 columns the
 * pair 2 (t%4): d[4i], d[4i + 1] in the first row, d[4i + 2], d[4i + 3] in the second. A comes from shared memory or
 * from registers that lie like D, B always from shared memory in the 128-byte swizzle (tma.cuh): rows of 64 elements,
 * 8 rows an atom of 1024 bytes.
 *
 * The instructions run behind the program: between issue and wgmma_wait nothing may touch D or A's registers.
 * wgmma_keep stands behind a wait, for the compiler to read the registers there and not before.
 */
#ifndef HEARTH_CUDA_WGMMA_CUH
#define HEARTH_CUDA_WGMMA_CUH

#include <stdint.h>

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

static __device__ inline void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ inline void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Until at most n groups are under way. */
template <int n> static __device__ inline void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}

template <int n> static __device__ inline void wgmma_keep(float (&d)[n])
{
#pragma unroll
    for (int i = 0; i < n; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

/* Descriptor of a matrix in the 128-byte swizzle. 8-row atoms are 1024 bytes apart; chunk_bytes: from 64 columns to the
 * next 64, used where columns are N. */
static __device__ inline uint64_t wgmma_desc(uint32_t shared_address, uint32_t chunk_bytes)
{
    return (uint64_t)((shared_address & 0x3ffff) >> 4) | (uint64_t)(chunk_bytes >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | 1ull << 62;
}

/* Steps of a descriptor's address. */
static __device__ inline uint64_t wgmma_at(uint64_t desc, uint32_t bytes)
{
    return desc + (bytes >> 4);
}

#define WG_R8(d, i)                                                                                             \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
#define WG_R32(d, i) WG_R8(d, i), WG_R8(d, i + 8), WG_R8(d, i + 16), WG_R8(d, i + 24)
#define WG_T32                                                                                                        \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%" \
    "30,%31"
#define WG_T64                                                                                                     \
    WG_T32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56," \
           "%57,%58,%59,%60,%61,%62,%63"
#define WG_T128                                                                                                    \
    WG_T64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88," \
           "%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,"   \
           "%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define WG_OP(n) "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 "
/* The operands behind D are numbered i, j, ...: by size, since PTX in C++ knows no names. */
#define WG_SS(n, list, i, j, k) \
    "{.reg .pred p; setp.ne.b32 p, %" #k ", 0; " WG_OP(n) "{" list "}, %" #i ", %" #j ", p, 1, 1, 0, 0;}"
#define WG_RS(n, list, i, j, k, l, m, p)                                                                        \
    "{.reg .pred p; setp.ne.b32 p, %" #p ", 0; " WG_OP(n) "{" list "}, {%" #i ",%" #j ",%" #k ",%" #l "}, %" #m \
                                                          ", p, 1, 1, 1;}"

/* D = (sum ? D : 0) + A B^T: rows of A and of B are contiguous, both in shared memory. */
static __device__ inline void wgmma_abt(float (&d)[32], uint64_t a, uint64_t b, int sum)
{
    asm volatile(WG_SS(64, WG_T32, 32, 33, 34) : WG_R32(d, 0) : "l"(a), "l"(b), "r"(sum));
}
static __device__ inline void wgmma_abt(float (&d)[64], uint64_t a, uint64_t b, int sum)
{
    asm volatile(WG_SS(128, WG_T64, 64, 65, 66) : WG_R32(d, 0), WG_R32(d, 32) : "l"(a), "l"(b), "r"(sum));
}

/* D = (sum ? D : 0) + A B: A in registers, rows of B (16 of them, N long) contiguous. */
static __device__ inline void wgmma_ab(float (&d)[32], const uint32_t *a, uint64_t b, int sum)
{
    asm volatile(WG_RS(64, WG_T32, 32, 33, 34, 35, 36, 37)
                 : WG_R32(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(sum));
}
static __device__ inline void wgmma_ab(float (&d)[64], const uint32_t *a, uint64_t b, int sum)
{
    asm volatile(WG_RS(128, WG_T64, 64, 65, 66, 67, 68, 69)
                 : WG_R32(d, 0), WG_R32(d, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(sum));
}
static __device__ inline void wgmma_ab(float (&d)[128], const uint32_t *a, uint64_t b, int sum)
{
    asm volatile(WG_RS(256, WG_T128, 128, 129, 130, 131, 132, 133)
                 : WG_R32(d, 0), WG_R32(d, 32), WG_R32(d, 64), WG_R32(d, 96)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(sum));
}

/* Registers of a warpgroup: given back, or taken. */
template <int n> static __device__ inline void regs_give(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n> static __device__ inline void regs_take(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}

#endif
#endif
