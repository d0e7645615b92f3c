/* fp8 - weights of linear layers in 8 bits: e4m3 with one float scale an output channel (row of W).
 *
 * On the card: [rows of all parts][columns] e4m3, then the scales of all rows. A row's scale is its largest magnitude
 * over 448 (1 for a row of zeros), and an element is the nearest e4m3 of w times 448 over that magnitude. Only matrices
 * whose rows and columns are multiples of 16 are taken.
 *
 * Rows of x that meet them in a product of many rows are quantised in the same way, a scale a row.
 */
#ifndef HEARTH_CUDA_FP8_CUH
#define HEARTH_CUDA_FP8_CUH

#include "cuda/cuda.cuh"

#define FP8_MAX   448.0f /* largest e4m3 */
#define FP8_LEAST 1e-30f /* a row of smaller numbers is one of zeros */

static inline bool fp8_is(const struct weight *w)
{
    return w->part[0].dtype == DT_F8;
}

/* Where the scales are. */
static inline float *fp8_scales(const struct weight *w)
{
    return (float *)((uint8_t *)w->part[0].data + (uint64_t)w->rows * (uint64_t)w->cols);
}

/* Take c->x8 and c->x8_scale, if they are not there. False: no memory. */
bool fp8_open(struct cuda *c);
/* Queue: out[rows][cols] e4m3 and scale[rows] of x[rows][cols] bfloat16; cols a multiple of 8. */
void fp8_quantise(cudaStream_t stream, uint8_t *out, float *scale, const __nv_bfloat16 *x, int32_t rows, int32_t cols);

#endif
