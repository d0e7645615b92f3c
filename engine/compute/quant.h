/* quant - rows of weights as GGUF stores them, and back to float. Leaf header: C17 and C++17, base/ only.
 *
 * Plain types: float32, IEEE half, bfloat16. Block types cut a row into blocks of 32 elements (ggml's block_q8_0,
 * block_q4_0, block_q4_1; little-endian, no padding, so a block may begin at any even address):
 *     Q8_0  34 bytes  half d, int8 q[32]            x[i]      = q[i] * d
 *     Q4_0  18 bytes  half d, uint8 q[16]           x[i]      = ((q[i] & 15) - 8) * d,  x[i + 16] = ((q[i] >> 4) - 8) *
 * d Q4_1  20 bytes  half d, half m, uint8 q[16]   x[i]      = (q[i] & 15) * d + m,    x[i + 16] = (q[i] >> 4) * d + m
 * Products are exact in float32 (11 bits times 8); only Q4_1's addition rounds. Pure, MT-safe.
 */
#ifndef HEARTH_COMPUTE_QUANT_H
#define HEARTH_COMPUTE_QUANT_H

#include "engine/base/f16.h"

#include <stdint.h>
#include <string.h>

#define QUANT_BLOCK 32 /* elements in a block of Q8_0, Q4_0, Q4_1 */

#define QUANT_Q8_0_BYTES 34
#define QUANT_Q4_0_BYTES 18
#define QUANT_Q4_1_BYTES 20

/* Weight types, numbered as in GGUF (ggml_type) so that loaders pass them on. Blocks run along K. DT_F8 is in no file:
 * e4m3 with a float scale per row, as a backend may keep a weight (weight_part.keep). */
enum dtype { DT_F32 = 0, DT_F16 = 1, DT_Q4_0 = 2, DT_Q4_1 = 3, DT_Q8_0 = 8, DT_BF16 = 30, DT_F8 = 256 };

/* Bytes of one row of `cols` elements; 0 when the type is unknown or cols is no multiple of its block. */
DEVICE_TOO uint64_t quant_row_bytes(uint32_t dtype, int32_t cols)
{
    uint64_t n = cols > 0 ? (uint64_t)cols : 0, blocks = n % QUANT_BLOCK ? 0 : n / QUANT_BLOCK;
    switch (dtype) {
    case DT_F32:
        return n * 4;
    case DT_F16:
    case DT_BF16:
        return n * 2;
    case DT_Q8_0:
        return blocks * QUANT_Q8_0_BYTES;
    case DT_Q4_0:
        return blocks * QUANT_Q4_0_BYTES;
    case DT_Q4_1:
        return blocks * QUANT_Q4_1_BYTES;
    default:
        return 0;
    }
}

DEVICE_TOO uint16_t quant_half_bits(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return h;
}

DEVICE_TOO void quant_get_f16(float *out, const uint8_t *row, int32_t cols)
{
    for (int32_t i = 0; i < cols; i++)
        out[i] = f16_to_f32(quant_half_bits(row + 2 * (size_t)i));
}

DEVICE_TOO void quant_get_bf16(float *out, const uint8_t *row, int32_t cols)
{
    for (int32_t i = 0; i < cols; i++)
        out[i] = bf16_to_f32(quant_half_bits(row + 2 * (size_t)i));
}

DEVICE_TOO void quant_get_q8_0(float *out, const uint8_t *row, int32_t cols)
{
    for (; cols > 0; cols -= QUANT_BLOCK, row += QUANT_Q8_0_BYTES, out += QUANT_BLOCK) {
        float d = f16_to_f32(quant_half_bits(row));
        for (int i = 0; i < QUANT_BLOCK; i++)
            out[i] = (float)(int8_t)row[2 + i] * d;
    }
}

DEVICE_TOO void quant_get_q4_0(float *out, const uint8_t *row, int32_t cols)
{
    for (; cols > 0; cols -= QUANT_BLOCK, row += QUANT_Q4_0_BYTES, out += QUANT_BLOCK) {
        float d = f16_to_f32(quant_half_bits(row));
        for (int i = 0; i < QUANT_BLOCK / 2; i++) {
            out[i] = (float)((row[2 + i] & 15) - 8) * d;
            out[i + QUANT_BLOCK / 2] = (float)((row[2 + i] >> 4) - 8) * d;
        }
    }
}

DEVICE_TOO void quant_get_q4_1(float *out, const uint8_t *row, int32_t cols)
{
    for (; cols > 0; cols -= QUANT_BLOCK, row += QUANT_Q4_1_BYTES, out += QUANT_BLOCK) {
        float d = f16_to_f32(quant_half_bits(row)), m = f16_to_f32(quant_half_bits(row + 2));
        for (int i = 0; i < QUANT_BLOCK / 2; i++) {
            out[i] = (float)(row[4 + i] & 15) * d + m;
            out[i + QUANT_BLOCK / 2] = (float)(row[4 + i] >> 4) * d + m;
        }
    }
}

/* out[cols] = the row of `cols` elements at `row` (quant_row_bytes of them, any alignment of 2; F32 too). The type must
 * be known and cols a multiple of its block. */
DEVICE_TOO void quant_get_row(float *out, uint32_t dtype, const void *row, int32_t cols)
{
    const uint8_t *bytes = (const uint8_t *)row;
    switch (dtype) {
    case DT_F32:
        memcpy(out, row, (size_t)cols * 4);
        break;
    case DT_F16:
        quant_get_f16(out, bytes, cols);
        break;
    case DT_BF16:
        quant_get_bf16(out, bytes, cols);
        break;
    case DT_Q8_0:
        quant_get_q8_0(out, bytes, cols);
        break;
    case DT_Q4_0:
        quant_get_q4_0(out, bytes, cols);
        break;
    case DT_Q4_1:
        quant_get_q4_1(out, bytes, cols);
        break;
    default:
        break;
    }
}

#endif
