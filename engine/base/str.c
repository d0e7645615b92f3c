/* str - see str.h. */
#include "engine/base/str.h"

#include <assert.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *str_room(struct str *s, size_t n)
{
    if (s->oom)
        return NULL;
    if (n >= SIZE_MAX / 2 - s->len) {
        s->oom = true;
        return NULL;
    }
    size_t need = s->len + n + 1;
    if (need > s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 64;
        if (cap < need)
            cap = need;
        char *data = realloc(s->data, cap);
        if (!data) {
            s->oom = true;
            return NULL;
        }
        s->data = data;
        s->cap = cap;
    }
    return s->data + s->len;
}

void str_add(struct str *s, const void *bytes, size_t n)
{
    char *to = str_room(s, n);
    if (!to)
        return;
    if (n)
        memcpy(to, bytes, n);
    s->len += n;
    s->data[s->len] = 0;
}

void str_puts(struct str *s, const char *text)
{
    str_add(s, text, strlen(text));
}

void str_putc(struct str *s, char c)
{
    str_add(s, &c, 1);
}

void str_addf(struct str *s, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    assert(n >= 0);
    char *to = str_room(s, (size_t)n);
    if (to) {
        vsnprintf(to, (size_t)n + 1, fmt, again);
        s->len += (size_t)n;
    }
    va_end(again);
}

void str_cut(struct str *s, size_t n)
{
    assert(n <= s->len);
    s->len = n;
    if (s->data)
        s->data[n] = 0;
}

void str_drop(struct str *s, size_t n)
{
    assert(n <= s->len);
    if (!n)
        return;
    memmove(s->data, s->data + n, s->len - n);
    str_cut(s, s->len - n);
}

void str_fini(struct str *s)
{
    free(s->data);
    memset(s, 0, sizeof *s);
}

const char *str_text(const struct str *s)
{
    return s->data ? s->data : "";
}
