/* load_cuda - the CUDA backend out of its shared object, when this machine has what it needs.
 *
 * hearthd is one program with and without a GPU: libhearth_cuda.so is opened when it is wanted, beside the executable
 * or in ../lib/hearth of it, and asked whether it can work. It stays open. MT-safe.
 */
#ifndef HEARTH_COMPUTE_LOAD_CUDA_H
#define HEARTH_COMPUTE_LOAD_CUDA_H

#include "engine/compute/backend.h"

#define CUDA_LIBRARY "libhearth_cuda.so"

/* The ops and the bytes of the GPU's memory. 0, or -errno with one sentence why not: the file is not there or can't be
 * opened, it is of another build (BACKEND_ABI), no driver, no GPU, or one that is too old. */
int load_cuda(const struct backend_ops **out, uint64_t *memory, struct err *e);

/* The same from this file (tests). */
int load_cuda_from(const char *path, const struct backend_ops **out, uint64_t *memory, struct err *e);

#endif
