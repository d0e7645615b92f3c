/* weight - matrices onto the card as bfloat16: [rows of all parts][columns padded to 8], one block.
 *
 * Host rows go through two pinned buffers of a few MB in turn: while one is copied, the CPU fills the other. Block
 * types travel as they are and are decoded on the card by quant.h, 32 elements a thread.
 */
#include "cuda/cuda.cuh"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define THREADS    256
#define LOAD_BYTES (8u << 20)

/* Element count that a thread decodes: a block of the block types. */
static __global__ void decode_kernel(__nv_bfloat16 *out, const uint8_t *rows, uint32_t dtype, int32_t n_rows,
                                     int32_t cols, int32_t stride, uint64_t row_bytes, uint64_t chunk_bytes)
{
    const int32_t per_row = (stride + QUANT_BLOCK - 1) / QUANT_BLOCK;
    size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= (size_t)n_rows * per_row)
        return;
    size_t r = at / per_row;
    int32_t k0 = (int32_t)(at % per_row) * QUANT_BLOCK;
    float x[QUANT_BLOCK] = {};
    quant_get_row(x, dtype, rows + r * row_bytes + at % per_row * chunk_bytes,
                  cols - k0 < QUANT_BLOCK ? (cols > k0 ? cols - k0 : 0) : QUANT_BLOCK);
    for (int32_t i = 0; i < QUANT_BLOCK && k0 + i < stride; i++)
        out[r * stride + k0 + i] = __float2bfloat16_rn(x[i]);
}

/* Rows r0 .. r0 + n - 1 of a part: gaps closed on the way. */
static void load_rows(struct cuda *c, __nv_bfloat16 *out, const struct weight_part *p, int32_t r0, int32_t n)
{
    struct stage_slot *s = &c->load[c->load_turn++ % 2];
    uint64_t row = quant_row_bytes(p->dtype, p->cols), bytes = row * (uint64_t)n;
    int32_t stride = cuda_pad(p->cols);
    stage_reserve(s, bytes);
    for (int32_t r = 0; r < n; r++)
        memcpy((uint8_t *)s->host + (uint64_t)r * row, (const uint8_t *)p->data + (uint64_t)(r0 + r) * p->row_bytes,
               row);
    CU(cudaMemcpyAsync(s->dev, s->host, bytes, cudaMemcpyHostToDevice, c->stream));
    CU(cudaEventRecord(s->copied, c->stream));
    size_t threads = (size_t)n * (size_t)((stride + QUANT_BLOCK - 1) / QUANT_BLOCK);
    decode_kernel<<<(unsigned)((threads + THREADS - 1) / THREADS), THREADS, 0, c->stream>>>(
        out, (const uint8_t *)s->dev, p->dtype, n, p->cols, stride, row, quant_row_bytes(p->dtype, QUANT_BLOCK));
    LAUNCHED();
}

uint64_t cuda_weight_bytes(uint32_t dtype, int32_t rows, int32_t cols)
{
    return (uint64_t)rows * (uint64_t)cuda_pad(cols) * sizeof(__nv_bfloat16);
}

static int check_part(const struct weight_part *p, struct err *e)
{
    if (quant_row_bytes(p->dtype, p->cols))
        return 0;
    return err_set(e, ENOTSUP,
                   "weight type %u with %d columns: cuda takes F32 F16 BF16, and Q8_0 Q4_0 Q4_1 with a multiple of %d "
                   "columns",
                   p->dtype, p->cols, QUANT_BLOCK);
}

int cuda_weight_load(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                     struct err *e)
{
    struct cuda *c = cuda_of(be);
    struct weight w = {};
    uint64_t bytes = 0;
    assert(n_parts >= 1 && n_parts <= WEIGHT_PARTS_MAX);
    w.cols = parts[0].cols;
    for (int i = 0; i < n_parts; i++) {
        int rc = check_part(&parts[i], e);
        if (rc)
            return rc;
        assert(parts[i].cols == w.cols && parts[i].rows > 0);
        bytes += cuda_weight_bytes(parts[i].dtype, parts[i].rows, w.cols);
    }
    uint8_t *data = (uint8_t *)cuda_alloc(c, bytes);
    if (!data)
        return err_set(e, ENOMEM, "no memory on the GPU for a weight of %llu bytes", (unsigned long long)bytes);
    for (int i = 0; i < n_parts; i++) {
        const struct weight_part *p = &parts[i];
        struct weight_seg seg = {data, cuda_weight_bytes(p->dtype, p->rows, p->cols), p->dtype, p->rows};
        int32_t at_once = (int32_t)(LOAD_BYTES / quant_row_bytes(p->dtype, p->cols)), stride = cuda_pad(p->cols);
        at_once = at_once ? at_once : 1;
        for (int32_t r = 0; r < p->rows; r += at_once)
            load_rows(c, (__nv_bfloat16 *)data + (size_t)r * stride, p, r,
                      p->rows - r < at_once ? p->rows - r : at_once);
        w.part[w.n_parts++] = seg;
        w.rows += p->rows;
        data += seg.bytes;
    }
    *out = w;
    return 0;
}

/* All parts lie in the block of the first. */
void cuda_weight_free(struct backend *be, struct weight *w)
{
    if (w->n_parts)
        CU(cudaFree(w->part[0].data));
    *w = {};
}
