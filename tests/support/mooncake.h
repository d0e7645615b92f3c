/* mooncake - request traces in the format of Mooncake's FAST'25 release.
 *
 * One JSON object a line: {"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}; each id stands
 * for 512 tokens and for everything before them, the last one for what is left. Only these four fields are read, and
 * only as numbers. A file that ends in .gz goes through gzip. Requests are put in order of time.
 */
#ifndef HEARTH_TESTS_MOONCAKE_H
#define HEARTH_TESTS_MOONCAKE_H

#include "engine/base/err.h"

#include <stddef.h>
#include <stdint.h>

#define MOONCAKE_ID_TOKENS 512

struct mooncake_request {
    uint64_t at_us;
    uint32_t input, output; /* tokens */
    uint32_t n_ids;
    const uint32_t *ids; /* into the trace */
};

struct mooncake {
    struct mooncake_request *requests;
    size_t n;
    uint32_t *ids;
    size_t n_ids;
};

/* 0, or -errno with e. At most `max` requests; 0 = all. */
int mooncake_read(struct mooncake *out, const char *path, size_t max, struct err *e);
void mooncake_free(struct mooncake *t);

/* Share of ids that a cache without bounds would have had: references that are not the first, and never a whole prompt
 * (its last token is computed). */
double mooncake_ideal(const struct mooncake *t, uint32_t blocks_per_id);

#endif
