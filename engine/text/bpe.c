/* bpe - see bpe.h. */
#include "engine/text/bpe.h"

#include "engine/base/vec.h"

#include <assert.h>
#include <errno.h>

struct bpe_symbol {
    int32_t id;
    uint32_t rank; /* of the rule for (this, next), BPE_NO_RANK when there is none or this is merged away */
    int32_t prev, next;
};

static struct bpe_rule *rule_of(const struct bpe *b, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    for (size_t i = (pair ^ pair >> 29) * 0x9E3779B97F4A7C15u >> b->shift;; i = (i + 1) & (b->n_rules - 1)) {
        struct bpe_rule *r = &b->rule[i];
        if (r->pair == pair || r->rank == BPE_NO_RANK)
            return r;
    }
}

static int alloc_rules(struct bpe *b, size_t n)
{
    unsigned bits = 4;
    while ((size_t)1 << bits < 2 * n)
        bits++;
    *b = (struct bpe){.n_rules = (size_t)1 << bits, .shift = 64 - bits, .n_ranks = n};
    b->rule = malloc(b->n_rules * sizeof *b->rule);
    b->makes = malloc((n + 1) * sizeof *b->makes);
    if (!b->rule || !b->makes)
        return -ENOMEM;
    for (size_t i = 0; i < b->n_rules; i++)
        b->rule[i] = (struct bpe_rule){UINT64_MAX, BPE_NO_RANK};
    return 0;
}

static bool is_control(const struct vocab *v, int32_t id)
{
    return v->token[id].type == TOKEN_CONTROL || v->token[id].type == TOKEN_UNKNOWN;
}

static void set_bytes(struct bpe *b, const struct vocab *v)
{
    for (int i = 0; i < 256; i++) {
        char c = (char)i;
        b->byte_id[i] = vocab_find(v, &c, 1, false);
    }
}

/* Id of a string as the vocabulary writes it, or -1. */
static int32_t find_string(const struct vocab *v, const char *s, size_t n, struct str *spelt)
{
    str_cut(spelt, 0);
    int32_t id = vocab_spell(s, n, spelt) ? vocab_find(v, spelt->data, spelt->len, false) : -1;
    return id >= 0 ? id : vocab_find(v, s, n, true);
}

/* Add the rule written "left right". Returns 0, -EINVAL (a part or the whole is no token) or -ENOMEM. */
static int add_rule(struct bpe *b, const struct vocab *v, uint32_t rank, const char *s, size_t n, struct str tmp[2])
{
    b->makes[rank] = -1;
    const char *gap = n > 2 ? memchr(s + 1, ' ', n - 2) : NULL;
    if (!gap)
        return -EINVAL;
    size_t n_left = (size_t)(gap - s), n_right = n - n_left - 1;
    str_cut(&tmp[1], 0);
    str_add(&tmp[1], s, n_left);
    str_add(&tmp[1], gap + 1, n_right);
    int32_t left = find_string(v, s, n_left, &tmp[0]), right = find_string(v, gap + 1, n_right, &tmp[0]);
    int32_t whole = find_string(v, tmp[1].data, tmp[1].len, &tmp[0]);
    if (tmp[0].oom || tmp[1].oom)
        return -ENOMEM;
    if (left < 0 || right < 0 || whole < 0)
        return -EINVAL;
    if (is_control(v, left) || is_control(v, right) || is_control(v, whole))
        return 0;
    struct bpe_rule *r = rule_of(b, left, right);
    *r = (struct bpe_rule){(uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank}; /* of equal rules the last counts */
    b->makes[rank] = whole;
    return 0;
}

static int add_rules(struct bpe *b, const struct vocab *v, const struct gguf_val *merges, struct err *e)
{
    struct str tmp[2] = {{0}, {0}};
    str_puts(&tmp[0], ""); /* so that data is never NULL */
    str_puts(&tmp[1], "");
    size_t cursor = 0, n;
    const char *s;
    int rc = 0;
    for (uint32_t rank = 0; !rc && rank < b->n_ranks && (s = gguf_array_text(merges, &cursor, &n)); rank++) {
        rc = add_rule(b, v, rank, s, n, tmp);
        if (rc == -EINVAL)
            err_set(e, EINVAL,
                    "tokenizer.ggml.merges: rule %u must be two tokens with a blank between them that "
                    "together are a token",
                    rank);
    }
    if (rc == -ENOMEM)
        err_set(e, ENOMEM, "no memory for the rules of tokenizer.ggml.merges");
    str_fini(&tmp[0]);
    str_fini(&tmp[1]);
    return rc;
}

int bpe_open(struct bpe *b, const struct vocab *v, const struct gguf *g, struct err *e)
{
    const struct gguf_val *merges = gguf_get(g, "tokenizer.ggml.merges");
    int64_t n = merges ? gguf_array_len(merges) : -1;
    if (n < 0 || n > INT32_MAX || (n && gguf_array_type(merges) != GGUF_STRING))
        return err_set(e, EINVAL, "tokenizer.ggml.merges: must be an array of at most %d strings", INT32_MAX);
    int rc = alloc_rules(b, (size_t)n);
    if (rc)
        err_set(e, -rc, "no memory for the %lld rules of tokenizer.ggml.merges", (long long)n);
    else
        rc = add_rules(b, v, merges, e);
    if (rc)
        bpe_fini(b);
    else
        set_bytes(b, v);
    return rc;
}

int bpe_open_bytes(struct bpe *b, const struct vocab *v)
{
    int rc = alloc_rules(b, 0);
    if (rc)
        bpe_fini(b);
    else
        set_bytes(b, v);
    return rc;
}

void bpe_fini(struct bpe *b)
{
    free(b->rule);
    free(b->makes);
    *b = (struct bpe){0};
}

bool bpe_makes(const struct bpe *b, int32_t id)
{
    for (size_t i = 0; i < b->n_ranks; i++)
        if (b->makes[i] == id)
            return true;
    return false;
}

void bpe_work_fini(struct bpe_work *w)
{
    free(w->known);
    free(w->symbol);
    free(w->heap);
    *w = (struct bpe_work){0};
}

/* ---- the heap: a plain binary one, least entry first ---- */

static int heap_push(struct bpe_work *w, uint32_t rank, int32_t at)
{
    if (rank == BPE_NO_RANK)
        return 0;
    int rc = vec_grow(&w->heap, &w->heap_cap, w->n_heap + 1, sizeof *w->heap);
    if (rc)
        return rc;
    uint64_t entry = (uint64_t)rank << 32 | (uint32_t)at;
    size_t i = w->n_heap++;
    for (; i && w->heap[(i - 1) / 2] > entry; i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = entry;
    return 0;
}

static uint64_t heap_pop(struct bpe_work *w)
{
    uint64_t least = w->heap[0], last = w->heap[--w->n_heap];
    size_t i = 0, kid;
    while ((kid = 2 * i + 1) < w->n_heap) {
        kid += kid + 1 < w->n_heap && w->heap[kid + 1] < w->heap[kid];
        if (w->heap[kid] >= last)
            break;
        w->heap[i] = w->heap[kid];
        i = kid;
    }
    w->heap[i] = last;
    return least;
}

/* ---- one piece ---- */

/* One symbol per byte that has a token, linked in order. */
static int load_symbols(const struct bpe *b, const char *piece, size_t n, struct bpe_work *w)
{
    int rc = vec_grow(&w->symbol, &w->symbol_cap, n, sizeof *w->symbol);
    if (rc)
        return rc;
    int32_t k = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = b->byte_id[(uint8_t)piece[i]];
        if (id < 0)
            continue;
        w->symbol[k] = (struct bpe_symbol){id, BPE_NO_RANK, k - 1, k + 1};
        k++;
    }
    if (k)
        w->symbol[k - 1].next = -1;
    w->n_symbols = (size_t)k;
    return 0;
}

/* The pair that begins at symbol `at` is new: find its rule and make it a candidate. */
static int new_pair(const struct bpe *b, struct bpe_work *w, int32_t at)
{
    struct bpe_symbol *s = &w->symbol[at];
    s->rank = s->next < 0 ? BPE_NO_RANK : rule_of(b, s->id, w->symbol[s->next].id)->rank;
    return heap_push(w, s->rank, at);
}

/* Merge symbol `at` with the next one. */
static int merge(const struct bpe *b, struct bpe_work *w, int32_t at)
{
    struct bpe_symbol *s = &w->symbol[at], *gone = &w->symbol[s->next];
    s->id = b->makes[s->rank];
    s->next = gone->next;
    gone->rank = BPE_NO_RANK;
    if (s->next >= 0)
        w->symbol[s->next].prev = at;
    int rc = s->prev < 0 ? 0 : new_pair(b, w, s->prev);
    return rc ? rc : new_pair(b, w, at);
}

/* Merge until no rule fits. An entry whose pair is gone names another rank than its symbol does. */
static int merge_all(const struct bpe *b, struct bpe_work *w)
{
    int rc = 0;
    w->n_heap = 0;
    for (size_t i = 0; !rc && i < w->n_symbols; i++)
        rc = new_pair(b, w, (int32_t)i);
    while (!rc && w->n_heap) {
        uint64_t entry = heap_pop(w);
        int32_t at = (int32_t)(uint32_t)entry;
        if (w->symbol[at].rank == entry >> 32)
            rc = merge(b, w, at);
    }
    return rc;
}

static int encode_new(const struct bpe *b, const char *piece, size_t n, struct bpe_work *w, struct token_ids *out)
{
    int rc = load_symbols(b, piece, n, w);
    if (!rc)
        rc = merge_all(b, w);
    if (!rc)
        rc = vec_grow(&out->ids, &out->cap, out->n + w->n_symbols, sizeof *out->ids);
    if (rc)
        return rc;
    for (int32_t i = w->n_symbols ? 0 : -1; i >= 0; i = w->symbol[i].next)
        out->ids[out->n++] = w->symbol[i].id;
    return 0;
}

/* ---- pieces that came before ---- */

static struct bpe_known *known_slot(struct bpe_work *w, const struct bpe_known *piece)
{
    uint64_t h = (piece->text[0] * 0x9E3779B97F4A7C15u) ^ (piece->text[1] + piece->n_bytes) * 0xBF58476D1CE4E5B9u;
    return &w->known[(h ^ h >> 32) * 0x94D049BB133111EBu >> 32 & (BPE_KNOWN - 1)];
}

static bool same_piece(const struct bpe_known *a, const struct bpe_known *b)
{
    return a->n_bytes == b->n_bytes && memcmp(a->text, b->text, sizeof a->text) == 0;
}

static int encode_known(const struct bpe *b, const char *piece, size_t n, struct bpe_work *w, struct token_ids *out)
{
    struct bpe_known k = {.n_bytes = (uint8_t)n};
    memcpy(k.text, piece, n);
    struct bpe_known *slot = known_slot(w, &k);
    size_t had = out->n;
    int rc = 0;
    if (same_piece(slot, &k)) {
        rc = vec_grow(&out->ids, &out->cap, had + slot->n_ids, sizeof *out->ids);
        for (int i = 0; !rc && i < slot->n_ids; i++)
            out->ids[out->n++] = slot->ids[i];
        return rc;
    }
    rc = encode_new(b, piece, n, w, out);
    if (rc || out->n - had > BPE_KNOWN_IDS)
        return rc;
    k.n_ids = (uint8_t)(out->n - had);
    for (int i = 0; i < k.n_ids; i++)
        k.ids[i] = out->ids[had + (size_t)i];
    *slot = k;
    return 0;
}

int bpe_encode(const struct bpe *b, const char *piece, size_t n, struct bpe_work *w, struct token_ids *out)
{
    assert(n <= INT32_MAX);
    if (++w->n_pieces == BPE_KNOWN_FROM && !(w->known = calloc(BPE_KNOWN, sizeof *w->known)))
        return -ENOMEM;
    if (!w->known || n == 0 || n > BPE_KNOWN_MAX)
        return encode_new(b, piece, n, w, out);
    return encode_known(b, piece, n, w, out);
}
