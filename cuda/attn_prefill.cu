/* attn_prefill - attention of many rows of a sequence on the tensor cores. No shape is taken yet. */
#include "cuda/cuda.cuh"

bool attn_prefill(struct cuda *c, const struct attn_args *a, const struct step_dev *at)
{
    return false;
}
