/* attn_widen - kv8 as kv16, for kernels that read kv16: the blocks that a call of attention sees, once before it.
 *
 * What comes out is the value times its scale in bfloat16, exact where the scale is a power of 2 (those that
 * --calibrate makes are), else rounded.
 *
 * Cost: a byte read and two written an element, at the rate of memory. 8,192 rows over their own keys take 17 us so,
 * beside 1 ms of products; 512 rows over 131,072 keys a seventh of the call.
 */
#include "cuda/kv.cuh"
#include "cuda/prefill.cuh"
#include "cuda/ptx.cuh"

#define THREADS 256

uint64_t widen_bytes(const struct kv_view *kv)
{
    return 2 * kv16_row_bytes(kv->head_dim) * kv->block_tokens;
}

struct kv_view widen_view(const struct kv_view *kv, void *base, int32_t n_kv_heads)
{
    struct kv_view to = {};
    to.base = base;
    to.row_stride = kv16_row_bytes(kv->head_dim);
    to.v_offset = to.row_stride * kv->block_tokens;
    to.head_stride = 2 * to.v_offset;
    to.block_stride = to.head_stride * (uint64_t)n_kv_heads;
    to.block_tokens = kv->block_tokens;
    to.format = KV_FORMAT_KV16;
    to.head_dim = kv->head_dim;
    to.n_kv_heads = (uint32_t)n_kv_heads;
    return to;
}

/* Two halves, times scale, as bfloat16. */
static __device__ inline uint32_t scaled(uint32_t halves, float scale)
{
    const float2 x = __half22float2(*(const __half2 *)&halves);
    return pack_bf16(x.x * scale, x.y * scale);
}

/* Grid: blocks x (heads x K, V). A thread owns 8 elements at a time: 8 bytes in, 16 out. */
static __global__ void __launch_bounds__(THREADS)
    widen_kernel(const struct kv_view to, const struct kv_view from, uint32_t g0, const int32_t *block)
{
    const uint32_t g = blockIdx.y / 2, pieces = from.head_dim / 8;
    const int v = blockIdx.y % 2;
    const float scale = kv_scale(&from, g0 + g, v);
    const uint8_t *in = (const uint8_t *)kv_row(&from, block[blockIdx.x], g0 + g, v, 0);
    uint8_t *out = (uint8_t *)kv_row(&to, (int32_t)blockIdx.x, g, v, 0);
    for (uint32_t i = threadIdx.x; i < from.block_tokens * pieces; i += THREADS) {
        const uint32_t row = i / pieces, at = i % pieces;
        const uint2 x = *(const uint2 *)(in + row * from.row_stride + 8 * at);
        uint32_t h[4];
        widen_e4m3(x.x, &h[0], &h[1]);
        widen_e4m3(x.y, &h[2], &h[3]);
        *(uint4 *)(out + row * to.row_stride + 16 * at) = {scaled(h[0], scale), scaled(h[1], scale),
                                                           scaled(h[2], scale), scaled(h[3], scale)};
    }
}

void widen(struct cuda *c, const struct kv_view *to, const struct kv_view *from, int32_t g, const int32_t *block,
           int32_t n)
{
    if (n == 0)
        return;
    widen_kernel<<<dim3((unsigned)n, 2 * to->n_kv_heads), THREADS, 0, c->stream>>>(*to, *from, (uint32_t)g, block);
    LAUNCHED();
}
