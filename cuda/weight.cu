/* weight - matrices onto the card as bfloat16: [rows of all parts][columns padded to 8], one block; or as e4m3 with a
 * scale per row (fp8.cuh), when that is how they shall be kept: then rows are bfloat16 in between.
 *
 * Host rows go through two pinned buffers of a few MB in turn: while one is copied, the CPU fills the other. Block
 * types travel as they are and are decoded on the card by quant.h, 32 elements a thread.
 */
#include "cuda/fp8.cuh"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define THREADS    256
#define LOAD_BYTES (8u << 20)

/* Grid: blocks of 32 columns of rows; a thread decodes one. Rows of each head are put in half-split order when the file
 * has them in pairs: 2 i + half comes to half * D / 2 + i. */
static __global__ void decode_kernel(__nv_bfloat16 *out, const struct coded_rows a, int32_t n_rows, int32_t stride,
                                     uint64_t row_bytes, uint64_t chunk_bytes)
{
    const int32_t per_row = (stride + QUANT_BLOCK - 1) / QUANT_BLOCK, d = a.head_dim;
    size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (at >= (size_t)n_rows * per_row)
        return;
    size_t r = at / per_row, to = d ? r / d * d + r % 2 * (d / 2) + r % d / 2 : r;
    int32_t k0 = (int32_t)(at % per_row) * QUANT_BLOCK;
    float x[QUANT_BLOCK] = {};
    quant_get_row(x, a.dtype, a.rows + r * row_bytes + at % per_row * chunk_bytes,
                  a.cols - k0 < QUANT_BLOCK ? (a.cols > k0 ? a.cols - k0 : 0) : QUANT_BLOCK);
    for (int32_t i = 0; i < QUANT_BLOCK && k0 + i < stride; i++)
        out[to * stride + k0 + i] = __float2bfloat16_rn(x[i]);
}

/* -- memory ------------------------------------------------------------------------------------------------------ */

uint64_t cuda_weight_bytes(uint32_t dtype, int32_t rows, int32_t cols)
{
    if (dtype == DT_F8)
        return (uint64_t)rows * ((uint64_t)cols + sizeof(float));
    return (uint64_t)rows * (uint64_t)cuda_pad(cols) * sizeof(__nv_bfloat16);
}

static uint32_t kept_as(const struct weight_part *p)
{
    return p->keep ? p->keep : p->dtype;
}

static int check_part(const struct cuda *c, const struct weight_part *p, struct err *e)
{
    if (!quant_row_bytes(p->dtype, p->cols))
        return err_set(e, ENOTSUP,
                       "weight type %u with %d columns: cuda takes F32 F16 BF16, and Q8_0 Q4_0 Q4_1 with a multiple of "
                       "%d columns",
                       p->dtype, p->cols, QUANT_BLOCK);
    if (p->keep == DT_F8 && (p->cols % 16 || p->rows % 16))
        return err_set(e, ENOTSUP, "a weight of %d x %d can't be kept in fp8: both must be multiples of 16", p->rows,
                       p->cols);
    if (p->keep == DT_F8 && 10 * c->major + c->minor < 89)
        return err_set(e, ENOTSUP, "weights in fp8 need a GPU of compute capability 8.9 or newer; this one has %d.%d",
                       c->major, c->minor);
    return 0;
}

static bool take_fp8(struct cuda *c)
{
    if (!c->wide)
        c->wide = (__nv_bfloat16 *)cuda_alloc(c, WEIGHT_WIDE_BYTES);
    return c->wide && fp8_open(c);
}

int weight_open(struct cuda *c, struct weight *out, const struct weight_part *parts, int n_parts, struct err *e)
{
    struct weight w = {};
    uint64_t bytes = 0;
    assert(n_parts >= 1 && n_parts <= WEIGHT_PARTS_MAX);
    w.cols = parts[0].cols;
    w.n_parts = n_parts;
    for (int i = 0; i < n_parts; i++) {
        const struct weight_part *p = &parts[i];
        int rc = check_part(c, p, e);
        if (rc)
            return rc;
        assert(p->cols == w.cols && p->rows > 0 && p->keep == parts[0].keep);
        w.part[i] = {NULL, cuda_weight_bytes(kept_as(p), p->rows, p->cols), kept_as(p), p->rows};
        w.rows += p->rows;
        bytes += w.part[i].bytes;
    }
    uint8_t *data = fp8_is(&w) && !take_fp8(c) ? NULL : (uint8_t *)cuda_alloc(c, bytes);
    if (!data)
        return err_set(e, ENOMEM, "no memory on the GPU for a weight of %llu bytes", (unsigned long long)bytes);
    for (int32_t i = 0, row = 0; i < n_parts; row += w.part[i++].rows)
        w.part[i].data = data +
                         (uint64_t)row * (fp8_is(&w) ? (uint64_t)w.cols : (uint64_t)cuda_pad(w.cols) * sizeof *c->wide);
    *out = w;
    return 0;
}

/* -- rows -------------------------------------------------------------------------------------------------------- */

int32_t weight_rows_max(const struct weight *w)
{
    int32_t rows = (int32_t)(WEIGHT_WIDE_BYTES / 2 / (uint64_t)cuda_pad(w->cols));
    return rows < 4 ? 4 : rows / 4 * 4;
}

__nv_bfloat16 *weight_begin(const struct weight *w, int32_t row, __nv_bfloat16 *wide)
{
    return fp8_is(w) ? wide : (__nv_bfloat16 *)w->part[0].data + (size_t)row * (size_t)cuda_pad(w->cols);
}

void weight_end(cudaStream_t stream, const struct weight *w, int32_t row, int32_t n, const __nv_bfloat16 *wide)
{
    if (fp8_is(w))
        fp8_quantise(stream, (uint8_t *)w->part[0].data + (size_t)row * (size_t)w->cols, fp8_scales(w) + row, wide, n,
                     w->cols);
}

void weight_decode(cudaStream_t stream, const struct weight *w, int32_t row, int32_t n, const struct coded_rows *a,
                   __nv_bfloat16 *wide)
{
    int32_t stride = cuda_pad(a->cols);
    size_t threads = (size_t)n * (size_t)((stride + QUANT_BLOCK - 1) / QUANT_BLOCK);
    decode_kernel<<<(unsigned)((threads + THREADS - 1) / THREADS), THREADS, 0, stream>>>(
        weight_begin(w, row, wide), *a, n, stride, quant_row_bytes(a->dtype, a->cols),
        quant_row_bytes(a->dtype, QUANT_BLOCK));
    LAUNCHED();
    weight_end(stream, w, row, n, wide);
}

/* -- from host memory -------------------------------------------------------------------------------------------- */

/* Rows r0 .. r0 + n - 1 of a part, which begins at row `first` of w: gaps closed on the way. */
static void load_rows(struct cuda *c, const struct weight *w, int32_t first, const struct weight_part *p, int32_t r0,
                      int32_t n)
{
    struct stage_slot *s = &c->load[c->load_turn++ % 2];
    uint64_t row = quant_row_bytes(p->dtype, p->cols), bytes = row * (uint64_t)n;
    stage_reserve(s, bytes);
    for (int32_t r = 0; r < n; r++)
        memcpy((uint8_t *)s->host + (uint64_t)r * row, (const uint8_t *)p->data + (uint64_t)(r0 + r) * p->row_bytes,
               row);
    stage_send(c, s, bytes);
    struct coded_rows a = {(const uint8_t *)s->dev, p->dtype, p->cols, 0};
    weight_decode(c->stream, w, first + r0, n, &a, c->wide);
}

int cuda_weight_load(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                     struct err *e)
{
    struct cuda *c = cuda_of(be);
    int rc = weight_open(c, out, parts, n_parts, e);
    if (rc)
        return rc;
    for (int32_t i = 0, first = 0; i < n_parts; first += parts[i++].rows) {
        const struct weight_part *p = &parts[i];
        int32_t at_once = (int32_t)(LOAD_BYTES / quant_row_bytes(p->dtype, p->cols)), most = weight_rows_max(out);
        at_once = at_once < 1 ? 1 : at_once < most ? at_once : most;
        for (int32_t r = 0; r < p->rows; r += at_once)
            load_rows(c, out, first, p, r, p->rows - r < at_once ? p->rows - r : at_once);
    }
    return 0;
}

/* All parts lie in the block of the first. */
void cuda_weight_free(struct backend *be, struct weight *w)
{
    reader_stop(cuda_of(be)); /* rows of it may be on their way */
    if (w->n_parts)
        CU(cudaFree(w->part[0].data));
    *w = {};
}
