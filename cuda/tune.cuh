/* tune - which of cublasLt's algorithms was fastest for a shape, kept in a file across starts.
 *
 * One file, gemm-GPU-LIBRARY.bin, in $CACHE_DIRECTORY (systemd), $XDG_CACHE_HOME/hearth or ~/.cache/hearth. It serves
 * one kind of GPU and one version of the library; one that is damaged, of another kind or not ours is not read, and
 * replaced when something new is known. Without a folder that can be written nothing is kept. Engine thread.
 */
#ifndef HEARTH_CUDA_TUNE_CUH
#define HEARTH_CUDA_TUNE_CUH

#include <cublasLt.h>
#include <stdint.h>

#define TUNE_MAX 4096 /* entries */

struct tune_key {
    int32_t n, k, rows; /* rows: the largest of the bucket */
    int32_t kind;       /* types and ending of the product */
};

struct tune_entry {
    struct tune_key key;
    cublasLtMatmulAlgo_t algo;
};

struct tune; /* what is known */

/* Reads the file, if there is a good one. gpu: name of the card. NULL only when there is no memory. */
struct tune *tune_open(const char *gpu);
/* Writes the file if something was put. NULL is fine. */
void tune_close(struct tune *t);
/* True and *algo, or false. The caller checks whether the library still takes it. */
bool tune_get(const struct tune *t, const struct tune_key *key, cublasLtMatmulAlgo_t *algo);
/* In the place of what was known of the key. */
void tune_put(struct tune *t, const struct tune_key *key, const cublasLtMatmulAlgo_t *algo);
/* Write now what was put since. */
void tune_save(struct tune *t);

#endif
