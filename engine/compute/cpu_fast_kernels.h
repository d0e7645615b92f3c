/* cpu_fast_kernels - the kernels of cpu_fast, compiled once per ISA: included by cpu_fast_ISA.c behind its primitives.
 *
 * The including file gives struct vf (16 floats) and struct vi (16 x s32 or 64 bytes) with their operations, ROWS_Q
 * and ROWS_F (rows of a register tile), and ISA_TABLE, ISA_NAME. All functions here are static: each ISA has
 * its own copy, and nothing of one ISA can be linked into another.
 */
#ifndef HEARTH_COMPUTE_CPU_FAST_KERNELS_H
#define HEARTH_COMPUTE_CPU_FAST_KERNELS_H

#include "engine/compute/cpu_fast.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* f(args, n) with n a constant, for n in 1 .. most: each tile height is compiled by itself. */
#define ROW_CASE(r, most, f, ...)              \
    case r:                                    \
        if (r <= most)                         \
            f(__VA_ARGS__, r <= most ? r : 1); \
        break;
#define WITH_ROWS(n, most, f, ...)        \
    switch (n) {                          \
        ROW_CASE(1, most, f, __VA_ARGS__) \
        ROW_CASE(2, most, f, __VA_ARGS__) \
        ROW_CASE(3, most, f, __VA_ARGS__) \
        ROW_CASE(4, most, f, __VA_ARGS__) \
        ROW_CASE(5, most, f, __VA_ARGS__) \
        ROW_CASE(6, most, f, __VA_ARGS__) \
        ROW_CASE(7, most, f, __VA_ARGS__) \
        ROW_CASE(8, most, f, __VA_ARGS__) \
    }
#define ROWS_MAX 8

#include "engine/compute/cpu_fast_k_rows.h"
#include "engine/compute/cpu_fast_k_gemm.h"
#include "engine/compute/cpu_fast_k_attn.h"

const struct fast_isa ISA_TABLE = {
    .name = ISA_NAME,
    .quantise = k_quantise,
    .gemm = k_gemm,
    .attend = k_attend,
    .add_norm = k_add_norm,
    .silu_mul = k_silu_mul,
    .rotate = k_rotate,
    .kv_put = k_kv_put,
    .merge = k_merge,
};

#endif
