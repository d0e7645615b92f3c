/* stop - see stop.h. The held tail is shorter than the longest stop string, so a scan costs n * longest at worst. */
#include "server/stop.h"

#include <string.h>

/* Does some stop string end at text[end)? The longest one's index, or -1. */
static int ends_at(const struct stop_set *set, const char *text, size_t end)
{
    int best = -1;
    for (size_t i = 0; i < set->n; i++)
        if (set->len[i] <= end && memcmp(text + end - set->len[i], set->text[i], set->len[i]) == 0 &&
            (best < 0 || set->len[i] > set->len[best]))
            best = (int)i;
    return best;
}

/* Length of the longest tail of text that begins a stop string. */
static size_t open_tail(const struct stop_set *set, const char *text, size_t n)
{
    size_t most = set->longest ? set->longest - 1 : 0;
    for (size_t tail = most < n ? most : n; tail > 0; tail--)
        for (size_t i = 0; i < set->n; i++)
            if (tail < set->len[i] && memcmp(text + n - tail, set->text[i], tail) == 0)
                return tail;
    return 0;
}

int stop_push(struct stop_scan *s, const struct stop_set *set, const char *text, size_t n, struct str *out)
{
    if (!set->n) {
        str_add(out, text, n);
        return -1;
    }
    size_t from = s->held.len;
    str_add(&s->held, text, n);
    if (s->held.oom) {
        out->oom = true;
        return -1;
    }
    for (size_t end = from + 1; end <= s->held.len; end++) {
        int found = ends_at(set, s->held.data, end);
        if (found >= 0) {
            str_add(out, s->held.data, end - set->len[found]);
            str_cut(&s->held, 0);
            return found;
        }
    }
    size_t tail = open_tail(set, str_text(&s->held), s->held.len);
    str_add(out, s->held.data, s->held.len - tail);
    str_drop(&s->held, s->held.len - tail);
    return -1;
}

void stop_flush(struct stop_scan *s, struct str *out)
{
    str_add(out, s->held.data, s->held.len);
    str_cut(&s->held, 0);
}

void stop_fini(struct stop_scan *s)
{
    str_fini(&s->held);
}
