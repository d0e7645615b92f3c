/* gguf_write - make small GGUF files in memory, good ones and ones with a chosen fault.
 *
 * Add metadata and tensors in any order, then gguf_write_finish. Every count, length, dimension, type and offset that
 * goes into the file is noted in `field` (the first GGUF_WRITE_FIELDS of them), so that a test can overwrite each with
 * hostile values. Out of memory ends the test (assert).
 */
#ifndef HEARTH_TESTS_GGUF_WRITE_H
#define HEARTH_TESTS_GGUF_WRITE_H

#include "engine/base/gguf.h"
#include "engine/base/str.h"

#define GGUF_WRITE_FIELDS 512

struct gguf_write {
    uint32_t version; /* 0 = 3 */
    uint32_t align;   /* of the data; 0 = 32. Not written as a key: add general.alignment yourself */
    uint64_t n_kv, n_tensors;
    struct str meta, dir, data;
    struct gguf_write_field {
        const char *what; /* "n_tensors", "key length", "array length", "dim", "offset", ... */
        size_t at;        /* byte in the finished file */
        int bytes;        /* 4 or 8 */
        int place;        /* 0 header, 1 metadata, 2 directory (until finish: at is within that section) */
    } field[GGUF_WRITE_FIELDS];
    size_t n_fields;
};

void gguf_write_int(struct gguf_write *w, const char *key, enum gguf_type type, uint64_t value);
void gguf_write_float(struct gguf_write *w, const char *key, float value);
void gguf_write_text(struct gguf_write *w, const char *key, const char *text);
/* n elements of a fixed-size type, as they lie in memory. */
void gguf_write_array(struct gguf_write *w, const char *key, enum gguf_type elem, const void *items, uint64_t n);
void gguf_write_texts(struct gguf_write *w, const char *key, const char *const *texts, uint64_t n);
/* Key, type and any bytes: for faults. */
void gguf_write_raw(struct gguf_write *w, const char *key, uint32_t type, const void *bytes, size_t n);
/* A tensor of n_dims dims; bytes of data are copied (NULL: zeros) and padded to the alignment. */
void gguf_write_tensor(struct gguf_write *w, const char *name, uint32_t dtype, const uint64_t *dims, unsigned n_dims,
                       const void *data, size_t bytes);
/* The file's bytes; w is empty after (but its fields stay). */
void gguf_write_finish(struct gguf_write *w, struct str *out);
/* Write bytes to the file at path. */
void gguf_write_file(const char *path, const struct str *bytes);

#endif
