/* pretok - see pretok.h. */
#include "engine/text/pretok.h"

#include "engine/base/utf8.h"
#include "engine/text/charclass.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum charclass { OTHER, LETTER, NUMBER, SPACE, DIGIT, END };

/* A character ahead: its class as the pre-tokenizer sees it, and its bytes. */
struct ahead {
    enum charclass cls;
    size_t bytes;
};

int pretok_by_name(const char *name, size_t n)
{
    static const struct {
        const char *name;
        enum pretok kind;
    } known[] = {{"gpt-2", PRETOK_GPT2}, {"gpt2", PRETOK_GPT2}, {"default", PRETOK_GPT2}, {"smollm", PRETOK_SMOLLM}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strlen(known[i].name) == n && memcmp(known[i].name, name, n) == 0)
            return (int)known[i].kind;
    return -EINVAL;
}

/* The last run that begins at or before cp. */
static enum charclass class_of(uint32_t cp)
{
    size_t low = 0, high = sizeof charclass_runs / sizeof *charclass_runs;
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        if (charclass_runs[mid] >> 3 <= cp)
            low = mid;
        else
            high = mid;
    }
    return (enum charclass)(charclass_runs[low] & 7);
}

static enum charclass class_of_ascii(uint8_t c)
{
    if ((c | 32) >= 'a' && (c | 32) <= 'z')
        return LETTER;
    if (c >= '0' && c <= '9')
        return NUMBER;
    return c == ' ' || (c >= '\t' && c <= '\r') ? SPACE : OTHER;
}

static struct ahead look(enum pretok kind, const char *p, const char *end)
{
    if (p == end)
        return (struct ahead){END, 0};
    if ((uint8_t)*p < 0x80)
        return (struct ahead){class_of_ascii((uint8_t)*p), 1};
    uint32_t cp;
    size_t bytes = utf8_next(p, (size_t)(end - p), &cp);
    enum charclass cls = class_of(cp);
    if (cls == DIGIT)
        cls = kind == PRETOK_SMOLLM ? NUMBER : OTHER;
    return (struct ahead){cls, bytes};
}

/* Bytes of 's 't 're 've 'm 'll 'd at p, 0 when it is none of them. */
static size_t contraction(const char *p, const char *end)
{
    if (*p != '\'' || end - p < 2)
        return 0;
    if (strchr("stmd", p[1]) && p[1])
        return 2;
    if (end - p < 3)
        return 0;
    return memcmp(p + 1, "re", 2) == 0 || memcmp(p + 1, "ve", 2) == 0 || memcmp(p + 1, "ll", 2) == 0 ? 3 : 0;
}

/* White space at p leaves its last character to what follows it, unless that is the end or it is the only one. To
 * smollm a digit ahead is an end, for there the text was cut already. */
static size_t space_run(enum pretok kind, const char *p, const char *end)
{
    const char *q = p;
    size_t last = 0;
    struct ahead a = look(kind, q, end);
    for (; a.cls == SPACE; a = look(kind, q, end)) {
        q += a.bytes;
        last = a.bytes;
    }
    bool cut_here = a.cls == END || (kind == PRETOK_SMOLLM && a.cls == NUMBER);
    size_t whole = (size_t)(q - p);
    return cut_here || whole == last ? whole : whole - last;
}

size_t pretok_next(enum pretok kind, const char *text, size_t n)
{
    assert(n > 0);
    const char *p = text, *end = text + n;
    size_t short_form = contraction(p, end);
    if (short_form)
        return short_form;
    struct ahead a = look(kind, p, end);
    if (a.cls == NUMBER && kind == PRETOK_SMOLLM)
        return a.bytes;
    if (*p == ' ') {
        a = look(kind, ++p, end);
        if (a.cls == END || (a.cls == NUMBER && kind == PRETOK_SMOLLM))
            return 1;
    }
    if (a.cls == SPACE)
        return space_run(kind, text, end);
    enum charclass cls = a.cls;
    for (; a.cls == cls; a = look(kind, p, end))
        p += a.bytes;
    return (size_t)(p - text);
}
