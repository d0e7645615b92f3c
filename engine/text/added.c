/* added - see added.h. */
#include "engine/text/added.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int by_bytes(const void *x, const void *y, void *vocab)
{
    size_t nx, ny;
    const char *bx = vocab_bytes(vocab, *(const int32_t *)x, &nx), *by = vocab_bytes(vocab, *(const int32_t *)y, &ny);
    int order = memcmp(bx, by, nx < ny ? nx : ny);
    return order ? order : (nx > ny) - (nx < ny);
}

int added_open(struct added *a, const struct vocab *v, unsigned types, struct err *e)
{
    size_t n = 0;
    for (size_t i = 0; i < v->n; i++)
        n += v->token[i].len && (types >> v->token[i].type & 1);
    *a = (struct added){.id = malloc((n + 1) * sizeof *a->id)};
    if (!a->id)
        return err_set(e, ENOMEM, "no memory for %zu control and user-defined tokens", n);
    for (size_t i = 0; i < v->n; i++) {
        if (!v->token[i].len || !(types >> v->token[i].type & 1))
            continue;
        a->id[a->n++] = (int32_t)i;
        a->first[(uint8_t)v->bytes.data[v->token[i].at]] = true;
    }
    qsort_r(a->id, a->n, sizeof *a->id, by_bytes, (void *)v);
    return 0;
}

void added_fini(struct added *a)
{
    free(a->id);
    *a = (struct added){0};
}

/* First of id[low..high) whose byte k is at least c; all of them are longer than k and equal before it. */
static size_t lower_bound(const struct added *a, const struct vocab *v, size_t low, size_t high, size_t k, int c)
{
    while (low < high) {
        size_t mid = low + (high - low) / 2, len;
        if ((uint8_t)vocab_bytes(v, a->id[mid], &len)[k] < c)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

int32_t added_match(const struct added *a, const struct vocab *v, const char *text, size_t n, size_t *len)
{
    int32_t best = -1;
    size_t low = 0, high = n && a->first[(uint8_t)text[0]] ? a->n : 0;
    for (size_t k = 0; k < n && low < high; k++) {
        int c = (uint8_t)text[k];
        low = lower_bound(a, v, low, high, k, c);
        high = lower_bound(a, v, low, high, k, c + 1);
        for (; low < high && v->token[a->id[low]].len == k + 1; low++) { /* what ends here sorts first */
            best = a->id[low];
            *len = k + 1;
        }
    }
    return best;
}

struct added_hit added_find(const struct added *a, const struct vocab *v, const char *text, size_t from, size_t n)
{
    struct added_hit hit = {n, 0, -1};
    for (size_t at = from; a->n && at < n; at++) {
        hit.id = added_match(a, v, text + at, n - at, &hit.len);
        if (hit.id >= 0) {
            hit.at = at;
            break;
        }
    }
    return hit;
}
