/* answer - see answer.h. */
#include "tests/support/answer.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static enum answer_kind bad(struct answer *out, const char *what)
{
    out->bad = what;
    return ANSWER_BAD;
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

static bool ends(const char *text, size_t n, const char *with)
{
    size_t m = strlen(with);
    return n >= m && memcmp(text + n - m, with, m) == 0;
}

/* Chunks into one text, in place. False when the last chunk is not there. */
static bool put_together(char *body, size_t n, size_t *len)
{
    char *from = body, *to = body, *end = body + n;
    for (;;) {
        char *line = strstr(from, "\r\n");
        unsigned long size = line ? strtoul(from, NULL, 16) : 0;
        if (!line || size > (size_t)(end - line) || (size_t)(end - line) < 4 + size)
            break;
        if (size == 0) {
            *len = (size_t)(to - body);
            *to = 0;
            return true;
        }
        memmove(to, line + 2, size);
        to += size;
        from = line + 2 + size + 2;
    }
    return false;
}

/* Add the JSON string at `from` (behind its quote) to a choice's text. */
static bool add_text(struct answer *out, int choice, const char *from)
{
    const char *end = from;
    while (*end && *end != '"')
        end += *end == '\\' && end[1] ? 2 : 1;
    size_t have = strlen(out->text[choice]), n = (size_t)(end - from);
    if (!*end || have + n >= ANSWER_TEXT)
        return false;
    memcpy(out->text[choice] + have, from, n);
    out->text[choice][have + n] = 0;
    return true;
}

/* "index":N, and behind it "text":"..." or "content":"...", as often as they come. No string holds such a mark: its
 * quotes would be escaped. */
static bool read_texts(struct answer *out, const char *body)
{
    static const char index[] = "\"index\":", text[] = "\"text\":\"", content[] = "\"content\":\"";
    const char *next;
    for (const char *at = strstr(body, index); at; at = next) {
        int choice = atoi(at + strlen(index));
        next = strstr(at + 1, index);
        if (choice < 0 || choice >= ANSWER_CHOICES)
            return false;
        if (choice >= out->n_choices)
            out->n_choices = choice + 1;
        const char *words = strstr(at, text), *other = strstr(at, content);
        size_t skip = strlen(text);
        if (!words || (other && other < words)) {
            words = other;
            skip = strlen(content);
        }
        if (words && (!next || words < next) && !add_text(out, choice, words + skip))
            return false;
    }
    return true;
}

static enum answer_kind judge_stream(char *body, size_t n, struct answer *out)
{
    if (!put_together(body, n, &n))
        return ANSWER_CUT;
    if (!ends(body, n, "\n\n"))
        return bad(out, "the last event is not whole");
    char *last = body; /* the last event */
    for (char *at = strstr(body, "\n\n"); at && at[2]; at = strstr(at + 2, "\n\n"))
        last = at + 2;
    if (begins(last, "data: {\"error\":{\"message\":\"") && ends(body, n, "}}\n\n"))
        return ANSWER_ERROR;
    if (strcmp(last, "data: [DONE]\n\n") != 0)
        return bad(out, "a stream that looks whole ends with neither [DONE] nor an error");
    return read_texts(out, body) ? ANSWER_WHOLE : bad(out, "texts that can't be read");
}

/* Is there such a line in the head? */
static bool has_line(const char *head, const char *body, const char *begin)
{
    const char *at = strstr(head, begin);
    return at && at < body && at[-1] == '\n';
}

static enum answer_kind judge_whole(const char *head, const char *body, size_t n, struct answer *out)
{
    const char *length = strstr(head, "Content-Length: ");
    if (!length || length > body)
        return bad(out, "no Content-Length");
    size_t want = strtoul(length + strlen("Content-Length: "), NULL, 10);
    if (n != want)
        return n < want ? ANSWER_CUT : bad(out, "more than Content-Length");
    if (out->status != 200 && !(begins(body, "{\"error\":{\"message\":\"") && ends(body, n, "}}")))
        return bad(out, "an error that is no error object");
    if (out->status == 500 && !has_line(head, body, "x-should-retry: false"))
        return bad(out, "a 500 that clients would try again");
    if (!has_line(head, body, "x-request-id: "))
        return bad(out, "no x-request-id");
    if (out->status != 200)
        return ANSWER_ERROR;
    if (!begins(body, "{") || !ends(body, n, "}"))
        return bad(out, "an answer that is no object");
    return read_texts(out, body) ? ANSWER_WHOLE : bad(out, "texts that can't be read");
}

void answer_judge(char *bytes, size_t n, struct answer *out)
{
    memset(out, 0, sizeof *out);
    bytes[n] = 0;
    char *body = strstr(bytes, "\r\n\r\n");
    if (n == 0 || !body) {
        out->kind = n ? ANSWER_CUT : ANSWER_NONE;
        return;
    }
    body += 4;
    out->status = begins(bytes, "HTTP/1.1 ") ? atoi(bytes + 9) : 0;
    n -= (size_t)(body - bytes);
    if (out->status != 200 && (out->status < 400 || out->status > 599))
        out->kind = bad(out, "a status that is none");
    else if (strstr(bytes, "text/event-stream") && strstr(bytes, "text/event-stream") < body)
        out->kind = judge_stream(body, n, out);
    else
        out->kind = judge_whole(bytes, body, n, out);
}

int answer_same(const struct answer *a, const struct answer *b)
{
    if (a->n_choices != b->n_choices)
        return 0;
    for (int i = 0; i < a->n_choices; i++)
        if (strcmp(a->text[i], b->text[i]) != 0)
            return 0;
    return 1;
}
