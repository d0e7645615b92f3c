/* cpu_fast_pack - weights from the order of a file into panels, and single rows back out (layout: cpu_fast.h). */
#include "engine/base/f16.h"
#include "engine/compute/cpu_fast.h"

#include <assert.h>
#include <string.h>

/* Sizes of a type: a block of a file (d, perhaps m, then the quants), and the groups of 4 bytes of its quants. */
struct shape {
    int32_t file_block; /* bytes for 32 inputs of one row, as in GGUF */
    int32_t scales;     /* f16 values before the quants: d, m */
    int32_t groups;     /* 4-byte groups of quants: 4 or 8 */
};

static struct shape shape_of(uint32_t dtype)
{
    switch (dtype) {
    case DT_Q4_0:
        return (struct shape){18, 1, 4};
    case DT_Q4_1:
        return (struct shape){20, 2, 4};
    case DT_Q8_0:
        return (struct shape){34, 1, 8};
    default:
        return (struct shape){0};
    }
}

static int32_t float_bytes(uint32_t dtype)
{
    return dtype == DT_F32 ? 4 : dtype == DT_F16 || dtype == DT_BF16 ? 2 : 0;
}

/* Bytes of 32 inputs of a panel: the same as in the file, times 16. */
static size_t block_bytes(struct shape s)
{
    return (size_t)s.file_block * PANEL;
}

uint64_t fast_panel_bytes(uint32_t dtype, int32_t cols)
{
    struct shape s = shape_of(dtype);
    if (s.file_block)
        return (uint64_t)(cols / QUANT_BLOCK) * block_bytes(s);
    return (uint64_t)cols * PANEL * (uint64_t)float_bytes(dtype);
}

/* Column n of a block: quants and scales of one file block. */
static void pack_block(uint8_t *to, const uint8_t *from, struct shape s, int32_t n)
{
    const uint8_t *quants = from + 2 * s.scales;
    for (int32_t j = 0; j < s.groups; j++)
        memcpy(to + j * PANEL * 4 + n * 4, quants + 4 * j, 4);
    for (int32_t i = 0; i < s.scales; i++)
        memcpy(to + s.groups * PANEL * 4 + (i * PANEL + n) * 2, from + 2 * i, 2);
}

void fast_pack(uint8_t *to, const struct weight_part *p)
{
    struct shape s = shape_of(p->dtype);
    size_t panel = fast_panel_bytes(p->dtype, p->cols), size = (size_t)float_bytes(p->dtype);
    for (int32_t r = 0; r < p->rows; r++) {
        const uint8_t *from = (const uint8_t *)p->data + (uint64_t)r * p->row_bytes;
        uint8_t *at = to + panel * (size_t)(r / PANEL);
        int32_t n = r % PANEL;
        if (s.file_block)
            for (int32_t b = 0; b < p->cols / QUANT_BLOCK; b++)
                pack_block(at + (size_t)b * block_bytes(s), from + (size_t)b * (size_t)s.file_block, s, n);
        else
            for (int32_t k = 0; k < p->cols; k++)
                memcpy(at + ((size_t)k * PANEL + (size_t)n) * size, from + (size_t)k * size, size);
    }
}

static void unpack_block(float *out, const uint8_t *block, uint32_t dtype, int32_t n)
{
    struct shape s = shape_of(dtype);
    const uint8_t *scales = block + s.groups * PANEL * 4 + n * 2;
    float d = f16_to_f32(quant_half_bits(scales));
    int32_t zero = dtype == DT_Q4_0 ? 8 : 0;
    for (int32_t i = 0; i < 4 * s.groups; i++) {
        uint8_t byte = block[(i / 4) * PANEL * 4 + n * 4 + i % 4];
        if (dtype == DT_Q8_0) {
            out[i] = d * (float)(int8_t)byte;
        } else {
            out[i] = d * (float)((byte & 15) - zero);
            out[i + 16] = d * (float)((byte >> 4) - zero);
        }
    }
    for (int32_t i = 0; dtype == DT_Q4_1 && i < QUANT_BLOCK; i++)
        out[i] += f16_to_f32(quant_half_bits(scales + PANEL * 2));
}

static float float_at(const uint8_t *p, uint32_t dtype)
{
    float f;
    if (dtype == DT_F32) {
        memcpy(&f, p, 4);
        return f;
    }
    return dtype == DT_F16 ? f16_to_f32(quant_half_bits(p)) : bf16_to_f32(quant_half_bits(p));
}

void fast_unpack_row(float *out, const uint8_t *panels, uint32_t dtype, int32_t cols, int32_t r)
{
    struct shape s = shape_of(dtype);
    const uint8_t *panel = panels + fast_panel_bytes(dtype, cols) * (size_t)(r / PANEL);
    int32_t n = r % PANEL, size = float_bytes(dtype);
    if (s.file_block)
        for (int32_t b = 0; b < cols / QUANT_BLOCK; b++)
            unpack_block(out + b * QUANT_BLOCK, panel + (size_t)b * block_bytes(s), dtype, n);
    else
        for (int32_t k = 0; k < cols; k++)
            out[k] = float_at(panel + ((size_t)k * PANEL + (size_t)n) * (size_t)size, dtype);
}
