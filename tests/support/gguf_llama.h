/* gguf_llama - a random model as a GGUF file, the way a converter writes one: q and k rows interleaved. */
#ifndef HEARTH_TESTS_GGUF_LLAMA_H
#define HEARTH_TESTS_GGUF_LLAMA_H

#include "engine/model/load.h"
#include "tests/support/gguf_write.h"

/* Add metadata and tensors of l (a random model) to w. Keys and tensors named in `skip` (NULL at the end; may be NULL)
 * are left out, so that a test can leave them out or add its own. */
void gguf_llama_add(struct gguf_write *w, struct loader *l, const char *const *skip);

#endif
