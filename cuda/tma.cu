/* tma - tensor maps of the KV pool, made on the host. The encoder is the driver's, found through the runtime: no link
 * with libcuda. */
#include "cuda/tma.cuh"

#include <cudaTypedefs.h>

#include <assert.h>

static PFN_cuTensorMapEncodeTiled_v12000 encoder(void)
{
    static PFN_cuTensorMapEncodeTiled_v12000 found; /* one engine thread calls */
    if (!found) {
        cudaDriverEntryPointQueryResult said;
        void *fn = NULL;
        CU(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000, cudaEnableDefault, &said));
        if (!fn)
            cuda_die(__FILE__, __LINE__, "cuTensorMapEncodeTiled", "the driver does not have it");
        found = (PFN_cuTensorMapEncodeTiled_v12000)fn;
    }
    return found;
}

void tma_map_pool(CUtensorMap *map, const struct kv_view *kv)
{
    assert(kv->head_stride == 2 * kv->v_offset);
    /* How many blocks the pool has does not matter here: ids are right or -1. */
    const cuuint64_t dims[4] = {kv->head_dim, kv->block_tokens, 2 * (cuuint64_t)kv->n_kv_heads, INT32_MAX};
    const cuuint64_t strides[3] = {kv->row_stride, kv->v_offset, kv->block_stride};
    const cuuint32_t box[4] = {TMA_COLS, (cuuint32_t)tma_rows(kv->block_tokens), 1, 1}, one[4] = {1, 1, 1, 1};
    CUresult rc = encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, (char *)kv->base + kv->layer_offset, dims,
                            strides, box, one, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (rc != CUDA_SUCCESS)
        cuda_die(__FILE__, __LINE__, "cuTensorMapEncodeTiled", "the pool's shape was refused");
}
