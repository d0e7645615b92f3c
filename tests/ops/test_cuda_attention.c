/* test_cuda_attention - test_attention on the CUDA backend. */
#define OPS_CUDA
#include "tests/ops/test_attention.c"
