/* mooncake - see mooncake.h. */
#include "tests/support/mooncake.h"

#include "engine/base/vec.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct reader {
    struct mooncake *t;
    size_t cap_requests, cap_ids;
    const char *path;
    size_t line;
};

/* What follows "name": in the line, or NULL. */
static const char *field(const char *line, const char *name)
{
    const char *at = strstr(line, name);
    if (!at)
        return NULL;
    at = strchr(at + strlen(name), ':');
    return at ? at + 1 : NULL;
}

static int read_ids(struct reader *r, const char *at, uint32_t *n)
{
    *n = 0;
    at += strspn(at, " [");
    while (*at >= '0' && *at <= '9') {
        char *end;
        int ret = vec_grow(&r->t->ids, &r->cap_ids, r->t->n_ids + 1, sizeof *r->t->ids);
        if (ret)
            return ret;
        r->t->ids[r->t->n_ids++] = (uint32_t)strtoull(at, &end, 10);
        ++*n;
        at = end + strspn(end, ", ");
    }
    return 0;
}

static int read_line(struct reader *r, const char *line, struct err *e)
{
    const char *at = field(line, "\"timestamp\""), *input = field(line, "\"input_length\""),
               *output = field(line, "\"output_length\""), *ids = field(line, "\"hash_ids\"");
    if (!at || !input || !output || !ids)
        return err_set(e, EINVAL, "%s line %zu: not a request of a Mooncake trace", r->path, r->line);
    struct mooncake_request q = {.at_us = (uint64_t)(strtod(at, NULL) * 1000),
                                 .input = (uint32_t)strtoul(input, NULL, 10),
                                 .output = (uint32_t)strtoul(output, NULL, 10)};
    if (read_ids(r, ids, &q.n_ids) != 0 || vec_grow(&r->t->requests, &r->cap_requests, r->t->n + 1, sizeof q) != 0)
        return err_set(e, ENOMEM, "%s: out of memory", r->path);
    if (q.n_ids == 0 || q.input == 0)
        return err_set(e, EINVAL, "%s line %zu: a request without a prompt", r->path, r->line);
    r->t->requests[r->t->n++] = q;
    return 0;
}

/* Order of time; of equal times the order in the file (sorting is by index, so it is stable). */
static int by_time(const void *a, const void *b)
{
    const struct mooncake_request *x = a, *y = b;
    if (x->at_us != y->at_us)
        return x->at_us < y->at_us ? -1 : 1;
    return x->ids < y->ids ? -1 : x->ids > y->ids;
}

static void finish(struct mooncake *t)
{
    const uint32_t *ids = t->ids;
    for (size_t i = 0; i < t->n; i++) {
        t->requests[i].ids = ids;
        ids += t->requests[i].n_ids;
    }
    if (t->n)
        qsort(t->requests, t->n, sizeof *t->requests, by_time);
}

/* gzip -dc PATH as a stream; *pid is to be waited for. */
static FILE *open_gzip(const char *path, pid_t *pid)
{
    int fd[2];
    if (pipe(fd) != 0)
        return NULL;
    *pid = fork();
    if (*pid == 0) {
        dup2(fd[1], 1);
        close(fd[0]);
        close(fd[1]);
        execlp("gzip", "gzip", "-dc", "--", path, (char *)NULL);
        _exit(127);
    }
    close(fd[1]);
    return *pid > 0 ? fdopen(fd[0], "r") : NULL;
}

int mooncake_read(struct mooncake *out, const char *path, size_t max, struct err *e)
{
    struct mooncake t = {0};
    struct reader r = {.t = &t, .path = path};
    size_t n = strlen(path), cap = 0;
    char *line = NULL;
    pid_t pid = 0;
    bool packed = n > 3 && strcmp(path + n - 3, ".gz") == 0;
    FILE *f = packed && access(path, R_OK) == 0 ? open_gzip(path, &pid) : packed ? NULL : fopen(path, "r");
    int ret = 0, status = 0;
    if (!f)
        return err_set(e, errno, "%s: %s", path, strerror(errno));
    while (ret == 0 && (max == 0 || t.n < max) && getline(&line, &cap, f) > 0) {
        r.line++;
        if (line[strspn(line, " \r\n")])
            ret = read_line(&r, line, e);
    }
    free(line);
    fclose(f);
    if (pid && (waitpid(pid, &status, 0) != pid || (status != 0 && ret == 0 && (max == 0 || t.n < max))))
        ret = err_set(e, EIO, "%s: gzip could not unpack it", path);
    if (ret == 0 && t.n == 0)
        ret = err_set(e, EINVAL, "%s: no requests in it", path);
    finish(&t);
    if (ret)
        mooncake_free(&t);
    else
        *out = t;
    return ret;
}

void mooncake_free(struct mooncake *t)
{
    free(t->requests);
    free(t->ids);
    memset(t, 0, sizeof *t);
}

double mooncake_ideal(const struct mooncake *t, uint32_t blocks_per_id)
{
    uint32_t most = 0;
    uint64_t hits = 0;
    for (size_t i = 0; i < t->n_ids; i++)
        most = t->ids[i] > most ? t->ids[i] : most;
    uint8_t *seen = calloc((size_t)most + 1, 1);
    if (!seen)
        return 0;
    for (size_t i = 0; i < t->n; i++) {
        const struct mooncake_request *q = &t->requests[i];
        uint32_t run = 0;
        while (run < q->n_ids && seen[q->ids[run]])
            run++;
        hits += (uint64_t)run * blocks_per_id - (run == q->n_ids);
        for (uint32_t j = 0; j < q->n_ids; j++)
            seen[q->ids[j]] = 1;
    }
    free(seen);
    return (double)hits / ((double)t->n_ids * blocks_per_id);
}
