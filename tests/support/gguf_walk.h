/* gguf_walk - touch everything an open GGUF gives out, as its users would: for sanitizers and fuzzers. */
#ifndef HEARTH_TESTS_GGUF_WALK_H
#define HEARTH_TESTS_GGUF_WALK_H

#include "engine/base/gguf.h"

/* Reads every byte of every tensor, finds each tensor by its name and reads the values of `keys` (n of them) in every
 * way. Aborts where the reader contradicts itself. Returns a sum over all that was read. */
uint64_t gguf_walk(const struct gguf *g, const char *const *keys, size_t n);

#endif
