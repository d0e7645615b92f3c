/* make - weights of "random:SHAPE" made on the card: the numbers of load_random.c, bit for bit, without the bus.
 *
 * Cost: the bytes written once (2 a weight); a thread makes the four elements of one output of SplitMix64.
 */
#include "cuda/cuda.cuh"

#include <assert.h>
#include <errno.h>

#define THREADS 256

/* A thread owns elements 4i .. 4i + 3 in row-major order. */
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

int cuda_weight_make(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                     struct err *e)
{
    struct cuda *c = cuda_of(be);
    struct weight w = {};
    uint64_t bytes = 0;
    assert(n_parts >= 1 && n_parts <= WEIGHT_PARTS_MAX);
    w.cols = parts[0].cols;
    for (int i = 0; i < n_parts; i++)
        bytes += cuda_weight_bytes(parts[i].dtype, parts[i].rows, w.cols);
    uint8_t *data = (uint8_t *)cuda_alloc(c, bytes);
    if (!data)
        return err_set(e, ENOMEM, "no memory on the GPU for a weight of %llu bytes", (unsigned long long)bytes);
    for (int i = 0; i < n_parts; i++) {
        const struct weight_part *p = &parts[i];
        uint64_t n = (uint64_t)p->rows * (uint64_t)p->cols;
        assert(p->made_scale > 0 && p->cols == w.cols && n % 4 == 0);
        make_kernel<<<(unsigned)c->n_sm * 16, THREADS, 0, c->stream>>>((__nv_bfloat16 *)data, n / 4, p->made_key,
                                                                       p->made_scale, p->cols, cuda_pad(p->cols));
        LAUNCHED();
        w.part[w.n_parts++] = {data, cuda_weight_bytes(p->dtype, p->rows, p->cols), p->dtype, p->rows};
        w.rows += p->rows;
        data += w.part[i].bytes;
    }
    *out = w;
    return 0;
}
