/* gguf - reader of the GGUF container, versions 2 and 3 (ggml docs/gguf.md): metadata and tensor directory.
 *
 * Format only: no meaning of keys or types. The file is mapped read-only; values and tensor bytes are pointers into the
 * map and live until gguf_close. Split files (split.count > 1) are opened together by the path of the first one
 * ("-00001-of-00003.gguf"): tensors of all parts appear in one directory, metadata is the first one's. Every count,
 * length, dimension and offset is checked against the file size with overflow-safe arithmetic before use; a hostile
 * file gives an error, never a crash. Memory: counts are bounded by the bytes that are there and by 65,536 keys and
 * 262,144 tensors. Keys and tensor names are printable ASCII. Refused: types unknown here, arrays of arrays,
 * tensors that overlap or leave gaps, names that come twice. Immutable after open: MT-safe. A file that shrinks while
 * mapped ends in SIGBUS: model files must not be changed in place.
 */
#ifndef HEARTH_BASE_GGUF_H
#define HEARTH_BASE_GGUF_H

#include "engine/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum gguf_type { /* metadata value types, as in the file */
                 GGUF_U8,
                 GGUF_I8,
                 GGUF_U16,
                 GGUF_I16,
                 GGUF_U32,
                 GGUF_I32,
                 GGUF_F32,
                 GGUF_BOOL,
                 GGUF_STRING,
                 GGUF_ARRAY,
                 GGUF_U64,
                 GGUF_I64,
                 GGUF_F64
};

/* ggml tensor types whose block sizes are known here (others are refused by gguf_open with the tensor's name). */
enum gguf_dtype {
    GGUF_DT_F32 = 0,
    GGUF_DT_F16 = 1,
    GGUF_DT_Q4_0 = 2,
    GGUF_DT_Q4_1 = 3,
    GGUF_DT_Q8_0 = 8,
    GGUF_DT_BF16 = 30
};

struct gguf_tensor {
    const char *name; /* not terminated: name_len bytes in the map */
    size_t name_len;
    unsigned n_dims;  /* 1..4 */
    uint64_t dims[4]; /* ne[0] is the contiguous one (columns, K); unused ones are 1 */
    uint32_t dtype;   /* enum gguf_dtype */
    const void *data; /* aligned to the file's alignment (32, unless the file says otherwise: 8 or more) */
    size_t bytes;
};

struct gguf;     /* an open file (or set of split files) */
struct gguf_val; /* a metadata value */

/* Open and check. 0, or -errno with e: not found, too short, bad magic, version, a field beyond the file, ... */
int gguf_open(struct gguf **out, const char *path, struct err *e);
/* The same over memory (fuzzing, tests); bytes must stay until gguf_close. Tensors are as aligned as bytes is. No split
 * files. */
int gguf_open_memory(struct gguf **out, const void *bytes, size_t n, struct err *e);
void gguf_close(struct gguf *g); /* NULL is fine */

uint64_t gguf_file_bytes(const struct gguf *g);
/* Raw bytes of header, metadata and directory of a file of the set, for fingerprints; NULL beyond the last one. */
const void *gguf_header(const struct gguf *g, size_t part, size_t *n);
size_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);
/* By name, O(1); NULL when absent. */
const struct gguf_tensor *gguf_find(const struct gguf *g, const char *name);

/* The file that a tensor's data lie in, and *at: where in it. NULL for memory. Lives until gguf_close. */
const char *gguf_place(const struct gguf *g, const void *data, uint64_t *at);

/* Metadata value by key, O(1); NULL when absent. */
const struct gguf_val *gguf_get(const struct gguf *g, const char *key);
enum gguf_type gguf_val_type(const struct gguf_val *v);
/* Typed reads: false when v is NULL, of another kind, or out of range (any integer type fits gguf_int). */
bool gguf_int(const struct gguf_val *v, int64_t *out);
bool gguf_float(const struct gguf_val *v, double *out);
bool gguf_bool(const struct gguf_val *v, bool *out);
/* Bytes of a string, not terminated; NULL when v is no string. */
const char *gguf_text(const struct gguf_val *v, size_t *n);
/* Arrays: length and element type; -1 when v is no array. */
int64_t gguf_array_len(const struct gguf_val *v);
enum gguf_type gguf_array_type(const struct gguf_val *v);
/* Start of a walk over an array of strings: call with *cursor = 0 up to len times; NULL at the end. */
const char *gguf_array_text(const struct gguf_val *v, size_t *cursor, size_t *n);
/* Element i of an array of numbers, any integer type. */
bool gguf_array_int(const struct gguf_val *v, size_t i, int64_t *out);
bool gguf_array_float(const struct gguf_val *v, size_t i, double *out);

/* Bytes of one row of `cols` elements of dtype; 0 when dtype is unknown or cols is no multiple of its block. */
size_t gguf_row_bytes(uint32_t dtype, uint64_t cols);
const char *gguf_dtype_name(uint32_t dtype);

#endif
