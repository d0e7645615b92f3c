/* make - weights of "random:SHAPE" made on the card: the numbers of load_random.c, bit for bit, without the bus.
 *
 * Cost: the bytes written once (2 a weight); a thread makes the four elements of one output of SplitMix64.
 */
#include "cuda/cuda.cuh"

#include <assert.h>

#define THREADS 256

/* A thread owns elements 4i .. 4i + 3 in row-major order; key is that of the first. */
static __global__ void make_kernel(__nv_bfloat16 *out, uint64_t n_words, uint64_t key, float scale, int32_t cols,
                                   int32_t stride)
{
    for (uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x; i < n_words; i += (uint64_t)gridDim.x * THREADS) {
        uint64_t z = key + (i + 1) * 0x9E3779B97F4A7C15u; /* rng_next with the state counted on */
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
        for (int j = 0; j < 4; j++, z >>= 16) {
            uint64_t at = 4 * i + (uint64_t)j;
            float v = __fmul_rn((float)(2 * (int32_t)(z & 0xffff) - 65535), scale);
            out[at / cols * stride + at % cols] = __float2bfloat16_rn(v);
        }
    }
}

/* Rows of a part, which begins at row `first` of w, some at a time. */
static void make_rows(struct cuda *c, const struct weight *w, int32_t first, const struct weight_part *p)
{
    int32_t at_once = weight_rows_max(w);
    assert(p->made_scale > 0 && (uint64_t)p->rows * (uint64_t)p->cols % 4 == 0);
    for (int32_t r = 0; r < p->rows; r += at_once) {
        int32_t n = p->rows - r < at_once ? p->rows - r : at_once;
        uint64_t before = (uint64_t)r * (uint64_t)p->cols / 4, words = (uint64_t)n * (uint64_t)p->cols / 4;
        make_kernel<<<(unsigned)c->n_sm * 16, THREADS, 0, c->stream>>>(weight_begin(w, first + r, c->wide), words,
                                                                       p->made_key + before * 0x9E3779B97F4A7C15u,
                                                                       p->made_scale, p->cols, cuda_pad(p->cols));
        LAUNCHED();
        weight_end(c->stream, w, first + r, n, c->wide);
    }
}

int cuda_weight_make(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                     struct err *e)
{
    struct cuda *c = cuda_of(be);
    int rc = weight_open(c, out, parts, n_parts, e);
    for (int32_t i = 0, first = 0; i < n_parts && !rc; first += parts[i++].rows)
        make_rows(c, out, first, &parts[i]);
    return rc;
}
