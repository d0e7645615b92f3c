/* scales - what kv8 multiplies by: a float for each layer, kv head, and K or V, in a file beside the model.
 *
 * The file, little-endian: "HKV8", u32 version 1, u32 layers, u32 kv heads, floats [layers][heads][K, V], u32 CRC-32C
 * of all before it. A scale is finite and above 0. It is written beside the model as a new file and renamed.
 */
#ifndef HEARTH_KV_SCALES_H
#define HEARTH_KV_SCALES_H

#include "engine/base/err.h"

#include <stddef.h>
#include <stdint.h>

/* Where the scales of the model file `model` are: MODEL.kv8. 0, or -ENAMETOOLONG. */
int scales_path(char *out, size_t size, const char *model);

/* out[n_layers][n_heads][2]. 0; -ENOENT without a word when there is no file; -EINVAL, -EIO, ... with e. */
int scales_read(const char *path, uint32_t n_layers, uint32_t n_heads, float *out, struct err *e);
int scales_write(const char *path, uint32_t n_layers, uint32_t n_heads, const float *scales, struct err *e);

/* The scale for values up to `most` in magnitude: a power of 2, with which twice as much is still in range (other texts
 * reach further), and what is read is exact in 16 bits. 1 for 0. */
float scale_for(float most);

#endif
