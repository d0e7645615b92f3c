/* gguf_value - inside of gguf: what a metadata value is in memory, sizes of value and tensor types.
 *
 * For gguf_part.c (which checks and makes them) and gguf_value.c (which reads them). Others use gguf.h.
 */
#ifndef HEARTH_BASE_GGUF_VALUE_H
#define HEARTH_BASE_GGUF_VALUE_H

#include "engine/base/gguf.h"

struct gguf_val {
    const char *name; /* the key; first two members as in struct gguf_tensor */
    size_t name_len;
    const uint8_t *data; /* the value, a string's bytes, an array's first element: all inside the file */
    uint64_t len;        /* bytes of a string, elements of an array */
    uint64_t bytes;      /* of data in the file */
    enum gguf_type type, elem;
};

struct gguf_dtype_info {
    uint32_t dtype;
    const char *name;
    uint32_t block, bytes; /* elements and bytes of a block */
};

/* Bytes of one value of a fixed-size type; 0 for strings, arrays and unknown types. */
size_t gguf_scalar_bytes(uint32_t type);
/* NULL when the type is not supported. */
const struct gguf_dtype_info *gguf_dtype_find(uint32_t dtype);

#endif
