/* test_cuda_ops - test_ops on the CUDA backend. */
#define OPS_CUDA
#include "tests/ops/test_ops.c"
