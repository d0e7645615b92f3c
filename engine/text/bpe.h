/* bpe - byte-pair merges within one piece of text.
 *
 * A piece starts as one symbol per byte; of all neighbours that a merge rule names, the pair of lowest rank (of these
 * the leftmost) becomes one symbol, until no rule fits. Symbols are a linked list, candidate pairs a heap of
 * (rank, position) that may hold outdated entries, seen and dropped when popped: O(n log n) for a piece of n bytes, 32
 * to 48 bytes of scratch per byte, no recursion. Ids equal those of Hugging Face `tokenizers` for any rules, also such
 * as no training makes. Words come again: from its 64th piece on a call keeps what short pieces gave, in a table where
 * a slot has the last one. Immutable after open, MT-safe; the scratch belongs to one call.
 */
#ifndef HEARTH_TEXT_BPE_H
#define HEARTH_TEXT_BPE_H

#include "engine/text/tokenizer.h"
#include "engine/text/vocab.h"

struct bpe_rule {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank; /* index in tokenizer.ggml.merges; BPE_NO_RANK = free slot */
};

struct bpe {
    struct bpe_rule *rule; /* hash table by pair; a power of two, at most half full */
    size_t n_rules;
    unsigned shift;
    int32_t *makes; /* [rank] the id that a merge gives, -1 = a rule left out */
    size_t n_ranks;
    int32_t byte_id[256]; /* the token of one byte, or -1: such a byte gives nothing, as in the reference */
};

#define BPE_NO_RANK UINT32_MAX

#define BPE_KNOWN_FROM 64
#define BPE_KNOWN      4096 /* pieces; a power of two. 128 KiB: they stay in a core's cache */
#define BPE_KNOWN_IDS  3
#define BPE_KNOWN_MAX  16 /* bytes of a piece */

struct bpe_known {
    uint64_t text[BPE_KNOWN_MAX / 8]; /* zeros behind it */
    int32_t ids[BPE_KNOWN_IDS];
    uint8_t n_bytes, n_ids; /* 0 bytes: free */
};

/* Scratch of one call; zero it, then bpe_work_fini. */
struct bpe_symbol;
struct bpe_work {
    struct bpe_known *known; /* [BPE_KNOWN], NULL until it pays */
    size_t n_pieces;
    struct bpe_symbol *symbol;
    size_t n_symbols, symbol_cap;
    uint64_t *heap; /* rank << 32 | position of the left symbol */
    size_t n_heap, heap_cap;
};

/* Read tokenizer.ggml.merges. A rule whose parts or result are no tokens is an error; one that would take or make a
 * control token is left out, so that typed text never becomes control. 0 or -errno with e; on failure b holds nothing.
 */
int bpe_open(struct bpe *b, const struct vocab *v, const struct gguf *g, struct err *e);
/* No rules: every byte is its own token. */
int bpe_open_bytes(struct bpe *b, const struct vocab *v);
void bpe_fini(struct bpe *b);

/* Append the ids of a piece of n < 2^31 bytes. 0 or -ENOMEM (out may have grown). */
int bpe_encode(const struct bpe *b, const char *piece, size_t n, struct bpe_work *w, struct token_ids *out);
void bpe_work_fini(struct bpe_work *w);

/* Does some rule make this token? */
bool bpe_makes(const struct bpe *b, int32_t id);

#endif
