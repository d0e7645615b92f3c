/* err - see err.h. */
#include "engine/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    e->code = code;
    return -code;
}

void err_prefix(struct err *e, const char *fmt, ...)
{
    char head[ERR_TEXT_MAX / 2];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(head, sizeof head, fmt, ap);
    va_end(ap);
    size_t n = strlen(head), keep = strlen(e->text);
    if (keep > sizeof e->text - n - 3)
        keep = sizeof e->text - n - 3;
    memmove(e->text + n + 2, e->text, keep);
    memcpy(e->text, head, n);
    memcpy(e->text + n, ": ", 2);
    e->text[n + 2 + keep] = 0;
}
