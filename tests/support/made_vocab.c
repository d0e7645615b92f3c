/* made_vocab - see made_vocab.h. */
#include "tests/support/made_vocab.h"

#include "engine/base/utf8.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int32_t made_token(struct made *m, const char *string, int32_t type)
{
    snprintf(m->token[m->n], sizeof m->token[0], "%s", string);
    m->type[m->n] = type;
    return (int32_t)m->n++;
}

void made_bytes(struct made *m)
{
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; b++) {
        bool same = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        char s[5] = {0};
        utf8_put(s, same ? b : next++);
        made_token(m, s, 1);
    }
}

int32_t made_merge(struct made *m, const char *left, const char *right)
{
    char whole[64];
    snprintf(m->merge[m->n_merges++], sizeof m->merge[0], "%s %s", left, right);
    snprintf(whole, sizeof whole, "%s%s", left, right);
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->token[i], whole) == 0)
            return (int32_t)i;
    return made_token(m, whole, 1);
}

void made_lists(const struct made *m, struct gguf_write *w)
{
    const char *list[MADE_MAX];
    for (size_t i = 0; i < m->n; i++)
        list[i] = m->token[i];
    gguf_write_texts(w, "tokenizer.ggml.tokens", list, m->n);
    gguf_write_array(w, "tokenizer.ggml.token_type", GGUF_I32, m->type, m->n);
    for (size_t i = 0; i < m->n_merges; i++)
        list[i] = m->merge[i];
    gguf_write_texts(w, "tokenizer.ggml.merges", list, m->n_merges);
}

int made_open_file(struct gguf_write *w, struct tokenizer **t, struct err *e)
{
    struct str bytes = {0};
    struct gguf *g;
    gguf_write_finish(w, &bytes);
    ck_assert_msg(gguf_open_memory(&g, bytes.data, bytes.len, e) == 0, "%s", e->text);
    int rc = tokenizer_open(t, g, e);
    gguf_close(g);
    memset(bytes.data, 0xDB, bytes.len); /* the tokenizer must not look at it any more */
    str_fini(&bytes);
    return rc;
}

struct tokenizer *made_open(const struct made *m, const char *pre)
{
    struct gguf_write *w = calloc(1, sizeof *w);
    struct tokenizer *t;
    struct err e = {0};
    gguf_write_text(w, "tokenizer.ggml.model", "gpt2");
    gguf_write_text(w, "tokenizer.ggml.pre", pre);
    made_lists(m, w);
    ck_assert_msg(made_open_file(w, &t, &e) == 0, "%s", e.text);
    free(w);
    return t;
}
