/* reply - see reply.h. */
#include "server/reply.h"

#include "engine/base/json.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *type_of(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    case 503:
        return "service_unavailable_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

int api_fail(struct api_error *e, int status, const char *code, const char *param, const char *fmt, ...)
{
    va_list ap;
    e->status = status;
    e->type = type_of(status);
    e->code = code;
    e->retry_ms = 0;
    e->allow[0] = 0;
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    return -1;
}

static void put_or_null(struct str *out, const char *text)
{
    if (text && *text)
        json_put_cstr(out, text);
    else
        str_puts(out, "null");
}

void api_put_error(const struct api_error *e, struct str *out)
{
    str_puts(out, "{\"error\":{\"message\":");
    json_put_cstr(out, e->message);
    str_puts(out, ",\"type\":");
    json_put_cstr(out, e->type);
    str_puts(out, ",\"param\":");
    put_or_null(out, e->param);
    str_puts(out, ",\"code\":");
    put_or_null(out, e->code);
    str_puts(out, "}}");
}

void reply_error(struct http_call *c, const struct api_error *e)
{
    static const char no_memory[] = "{\"error\":{\"message\":\"no memory for the answer\",\"type\":"
                                    "\"service_unavailable_error\",\"param\":null,\"code\":\"out_of_memory\"}}";
    struct str body = {0};
    char ms[16], s[16];
    struct http_header h[4];
    size_t n = 0;
    api_put_error(e, &body);
    if (e->retry_ms) {
        snprintf(ms, sizeof ms, "%u", e->retry_ms);
        snprintf(s, sizeof s, "%u", (e->retry_ms + 999) / 1000);
        h[n++] = (struct http_header){"retry-after-ms", ms};
        h[n++] = (struct http_header){"Retry-After", s};
    }
    if (e->status == 401)
        h[n++] = (struct http_header){"WWW-Authenticate", "Bearer"};
    if (e->allow[0])
        h[n++] = (struct http_header){"Allow", e->allow};
    if (e->status == 500)
        h[n++] = (struct http_header){"x-should-retry", "false"};
    if (body.oom)
        http_answer(c, 503, "application/json", NULL, 0, no_memory, sizeof no_memory - 1);
    else
        http_answer(c, e->status, "application/json", h, n, body.data, body.len);
    str_fini(&body);
}

void reply_json(struct http_call *c, int status, const struct str *body)
{
    if (body->oom) {
        struct api_error e;
        api_fail(&e, 503, "out_of_memory", NULL, "no memory for the answer");
        e.retry_ms = 1000;
        reply_error(c, &e);
        return;
    }
    http_answer(c, status, "application/json", NULL, 0, str_text(body), body->len);
}
