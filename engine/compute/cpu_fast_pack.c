/* cpu_fast_pack - weights from the order of a file into panels, and single rows back out (layout: cpu_fast.h). */
#include "engine/base/f16.h"
#include "engine/compute/cpu_fast.h"

#include <assert.h>
#include <string.h>

/* Input at each place of PAIR_ORDER. */
static const uint8_t pair_order[QUANT_BLOCK] = {0, 2,  16, 18, 1, 3,  17, 19, 4,  6,  20, 22, 5,  7,  21, 23,
                                                8, 10, 24, 26, 9, 11, 25, 27, 12, 14, 28, 30, 13, 15, 29, 31};

/* A block of a file: d, perhaps m, then the quants. */
struct shape {
    int32_t bytes;  /* for 32 inputs of one row, as in GGUF; 0 for float types */
    int32_t scales; /* f16 values before the quants */
};

static struct shape shape_of(uint32_t dtype)
{
    switch (dtype) {
    case DT_Q4_0:
        return (struct shape){QUANT_Q4_0_BYTES, 1};
    case DT_Q4_1:
        return (struct shape){QUANT_Q4_1_BYTES, 2};
    case DT_Q8_0:
        return (struct shape){QUANT_Q8_0_BYTES, 1};
    default:
        return (struct shape){0};
    }
}

/* Bytes of the quants of one column, 16 or 32. */
static int32_t quants_of(struct shape s)
{
    return s.bytes - 2 * s.scales;
}

static int32_t float_bytes(uint32_t dtype)
{
    return dtype == DT_F32 ? 4 : dtype == DT_F16 || dtype == DT_BF16 ? 2 : 0;
}

/* Bytes of 32 inputs of a panel: the same as in the file, times 16. */
static size_t block_bytes(struct shape s)
{
    return (size_t)s.bytes * PANEL;
}

uint64_t fast_panel_bytes(uint32_t dtype, int32_t cols)
{
    struct shape s = shape_of(dtype);
    if (s.bytes)
        return (uint64_t)(cols / QUANT_BLOCK) * block_bytes(s);
    return (uint64_t)cols * PANEL * (uint64_t)float_bytes(dtype);
}

/* Column n of a block: quants and scales of one file block. */
static void pack_block(uint8_t *to, const uint8_t *from, struct shape s, int32_t n)
{
    const uint8_t *quants = from + 2 * s.scales;
    if (quants_of(s) == QUANT_BLOCK)
        for (int32_t i = 0; i < QUANT_BLOCK; i++)
            to[(i / 2 * PANEL + n) * 2 + i % 2] = quants[pair_order[i]];
    else
        for (int32_t i = 0; i < quants_of(s); i += 4)
            memcpy(to + i * PANEL + n * 4, quants + i, 4);
    for (int32_t i = 0; i < s.scales; i++)
        memcpy(to + quants_of(s) * PANEL + (i * PANEL + n) * 2, from + 2 * i, 2);
}

void fast_pack(uint8_t *to, const struct weight_part *p)
{
    struct shape s = shape_of(p->dtype);
    size_t panel = fast_panel_bytes(p->dtype, p->cols), size = (size_t)float_bytes(p->dtype);
    for (int32_t r = 0; r < p->rows; r++) {
        const uint8_t *from = (const uint8_t *)p->data + (uint64_t)r * p->row_bytes;
        uint8_t *at = to + panel * (size_t)(r / PANEL);
        int32_t n = r % PANEL;
        if (s.bytes)
            for (int32_t b = 0; b < p->cols / QUANT_BLOCK; b++)
                pack_block(at + (size_t)b * block_bytes(s), from + (size_t)b * (size_t)s.bytes, s, n);
        else
            for (int32_t k = 0; k < p->cols; k++)
                memcpy(at + ((size_t)k * PANEL + (size_t)n) * size, from + (size_t)k * size, size);
    }
}

/* out[32] = the block's numbers of column n, as quant.h dequantises them */
static void unpack_block(float *out, const uint8_t *block, uint32_t dtype, int32_t n)
{
    struct shape s = shape_of(dtype);
    uint8_t file[4 * QUANT_BLOCK], *quants = file + 2 * s.scales; /* room for any type */
    if (quants_of(s) == QUANT_BLOCK)
        for (int32_t i = 0; i < QUANT_BLOCK; i++)
            quants[pair_order[i]] = block[(i / 2 * PANEL + n) * 2 + i % 2];
    else
        for (int32_t i = 0; i < quants_of(s); i += 4)
            memcpy(quants + i, block + i * PANEL + n * 4, 4);
    for (int32_t i = 0; i < s.scales; i++)
        memcpy(file + 2 * i, block + quants_of(s) * PANEL + (i * PANEL + n) * 2, 2);
    quant_get_row(out, dtype, file, QUANT_BLOCK);
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
    if (s.bytes)
        for (int32_t b = 0; b < cols / QUANT_BLOCK; b++)
            unpack_block(out + b * QUANT_BLOCK, panel + (size_t)b * block_bytes(s), dtype, n);
    else
        for (int32_t k = 0; k < cols; k++)
            out[k] = float_at(panel + ((size_t)k * PANEL + (size_t)n) * (size_t)size, dtype);
}
