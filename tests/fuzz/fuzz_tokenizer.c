/* fuzz_tokenizer - any metadata as vocabulary: refused, or a tokenizer that keeps its promises on any text.
 *
 * An input that begins with GGUF is a file. Any other is lines, so that mutations reach what lies behind the container:
 *     t3<|im_end|>   next token, of type 3       ma b    merge rule        psmollm  pre-tokenizer
 *     b5 e5 o5       bos, eos, eot id            =...    text to encode, to the end of the input
 */
#include "tests/support/gguf_write.h"

#include "engine/base/utf8.h"
#include "engine/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(int ok)
{
    if (!ok)
        abort();
}

/* ---- promises ---- */

/* Ids are in range, text typed gives no control token, and the tokens' bytes are the text's, in order, perhaps without
 * some that have no token. */
static void check_ids(const struct tokenizer *t, const struct token_ids *ids, const char *text, size_t n, bool special)
{
    size_t at = 0;
    for (size_t i = 0; i < ids->n; i++) {
        size_t len;
        const char *bytes = tokenizer_token_bytes(t, ids->ids[i], &len);
        must(bytes && len > 0);
        must(special || !tokenizer_is_special(t, ids->ids[i]));
        for (size_t k = 0; k < len; k++, at++) {
            while (at < n && text[at] != bytes[k])
                at++;
            must(at < n);
        }
    }
}

/* Every piece is whole characters. */
static void check_detok(const struct tokenizer *t, const struct token_ids *ids, bool skip_special)
{
    struct detok d = {0};
    struct str out = {0};
    for (size_t i = 0; i < ids->n; i++) {
        size_t had = out.len;
        detok_push(&d, t, ids->ids[i], skip_special, &out);
        must(utf8_valid(str_text(&out) + had, out.len - had));
    }
    detok_finish(&d, &out);
    must(utf8_valid(str_text(&out), out.len));
    str_fini(&out);
}

static void check_text(const struct tokenizer *t, const char *text, size_t n, bool special)
{
    struct token_ids ids = {0};
    struct err e = {0};
    must(tokenizer_encode(t, text, n, special, &ids, &e) == 0);
    if (utf8_valid(text, n))
        check_ids(t, &ids, text, n, special);
    check_detok(t, &ids, false);
    check_detok(t, &ids, true);
    free(ids.ids);
}

static void check_tokens(const struct tokenizer *t)
{
    size_t n, len;
    const int32_t *eog = tokenizer_eog(t, &n);
    for (size_t i = 0; i < n; i++)
        must(eog[i] >= 0 && eog[i] < tokenizer_vocab(t));
    must(!tokenizer_add_bos(t) || tokenizer_bos(t) >= 0);
    for (int32_t id = 0; id < tokenizer_vocab(t); id++) {
        const char *bytes = tokenizer_token_bytes(t, id, &n);
        int32_t same = n ? tokenizer_find(t, bytes, n) : id;
        must(same >= 0);
        const char *found = tokenizer_token_bytes(t, same, &len);
        must(len == n && memcmp(found, bytes, n) == 0);
        must(n == 0 || !tokenizer_is_special(t, id) || tokenizer_match_special(t, bytes, n, &len) >= 0);
    }
}

static void check_file(const void *bytes, size_t n, const char *text, size_t n_text)
{
    struct gguf *g;
    struct tokenizer *t;
    struct err e = {0};
    if (gguf_open_memory(&g, bytes, n, &e))
        return;
    int rc = tokenizer_open(&t, g, &e);
    gguf_close(g);
    must(rc <= 0 && (rc == 0 || e.text[0]));
    if (rc)
        return;
    check_tokens(t);
    check_text(t, text, n_text, false);
    check_text(t, text, n_text, true);
    tokenizer_close(t);
}

/* ---- a file out of lines ---- */

struct lines {
    const char *token[1024], *merge[1024], *pre, *text;
    int32_t type[1024];
    size_t n_tokens, n_merges, n_text;
    struct gguf_write w;
};

/* One line, terminated; what it doesn't know it leaves out. */
static void take_line(struct lines *l, const char *s)
{
    if (s[0] == 't' && s[1] && l->n_tokens < 1024) {
        l->type[l->n_tokens] = s[1] - '0';
        l->token[l->n_tokens++] = s + 2;
    } else if (s[0] == 'm' && l->n_merges < 1024) {
        l->merge[l->n_merges++] = s + 1;
    } else if (s[0] == 'p') {
        l->pre = s + 1;
    }
}

static void take_id(struct lines *l, const char *line, char letter, const char *key)
{
    if (line[0] == letter)
        gguf_write_int(&l->w, key, GGUF_I64, (uint64_t)strtoll(line + 1, NULL, 10));
}

static void take_lines(struct lines *l, char *s, size_t n)
{
    char *end = s + n;
    while (s < end && *s != '=') {
        char *stop = memchr(s, '\n', (size_t)(end - s));
        stop = stop ? stop : end;
        *stop = 0; /* a byte beyond the input is there */
        take_line(l, s);
        take_id(l, s, 'b', "tokenizer.ggml.bos_token_id");
        take_id(l, s, 'e', "tokenizer.ggml.eos_token_id");
        take_id(l, s, 'o', "tokenizer.ggml.eot_token_id");
        s = stop + 1;
    }
    l->text = s < end ? s + 1 : "";
    l->n_text = s < end ? (size_t)(end - s - 1) : 0;
}

static void check_lines(const uint8_t *data, size_t n)
{
    struct lines *l = calloc(1, sizeof *l);
    char *copy = malloc(n + 1);
    struct str file = {0};
    must(l && copy);
    memcpy(copy, data, n);
    copy[n] = 0;
    l->pre = "gpt2";
    take_lines(l, copy, n);
    gguf_write_text(&l->w, "tokenizer.ggml.model", "gpt2");
    gguf_write_text(&l->w, "tokenizer.ggml.pre", l->pre);
    gguf_write_texts(&l->w, "tokenizer.ggml.tokens", l->token, l->n_tokens);
    gguf_write_array(&l->w, "tokenizer.ggml.token_type", GGUF_I32, l->type, l->n_tokens);
    gguf_write_texts(&l->w, "tokenizer.ggml.merges", l->merge, l->n_merges);
    gguf_write_finish(&l->w, &file);
    check_file(file.data, file.len, l->text, l->n_text);
    str_fini(&file);
    free(copy);
    free(l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n >= 4 && memcmp(data, "GGUF", 4) == 0)
        check_file(data, n, (const char *)data, n);
    else
        check_lines(data, n);
    return 0;
}
