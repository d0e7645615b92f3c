/* bench_http - CPU of the HTTP thread for one chunk of a stream.
 *
 * N loopback clients each have a stream. A step is what the engine's step will be: one wake-up on the loop, one SSE
 * chunk of 100 bytes written to every stream; the next step waits until every client has its chunk. Printed: CPU time
 * of the loop's thread (user and system) over chunks, the time of a step, and the gate. usage: bench_http [N] [steps]
 */
#include "tests/support/http_stub.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#define CHUNK_BYTES 100
#define WIRE_BYTES  (CHUNK_BYTES + 2 + 2 + 2) /* "64" CRLF bytes CRLF */
#define GATE_US     15.0

struct bench {
    size_t n;
    uint64_t *ids;
    char chunk[CHUNK_BYTES];
};

static double seconds(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void read_cpu(struct stub *s, void *arg)
{
    *(double *)arg = seconds(CLOCK_THREAD_CPUTIME_ID);
}

static double loop_cpu(struct stub *s)
{
    double t;
    stub_do(s, read_cpu, &t);
    return t;
}

static void write_step(struct stub *s, void *arg)
{
    struct bench *b = arg;
    for (size_t i = 0; i < b->n; i++)
        if (http_stream_write(http_find(s->http, b->ids[i]), b->chunk, sizeof b->chunk) != 0)
            abort();
}

/* Read exactly n bytes from the client. */
static void take(struct client *c, size_t n)
{
    char bytes[4096];
    while (n > 0) {
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        ssize_t got = poll(&p, 1, WAIT_MS) == 1 ? recv(c->fd, bytes, n < sizeof bytes ? n : sizeof bytes, 0) : -1;
        if (got <= 0) {
            fprintf(stderr, "bench_http: a client got nothing for %d ms\n", WAIT_MS);
            exit(1);
        }
        n -= (size_t)got;
    }
}

static void run(size_t n, size_t steps)
{
    struct stub *s = stub_open(NULL);
    struct bench b = {.n = n, .ids = calloc(n, sizeof *b.ids)};
    struct client *c = calloc(n, sizeof *c);
    struct reply r = {0};
    memset(b.chunk, 'x', sizeof b.chunk);
    memcpy(b.chunk, "data: ", 6);
    memcpy(b.chunk + CHUNK_BYTES - 2, "\n\n", 2);
    for (size_t i = 0; i < n; i++) {
        c[i] = client_open(s);
        client_send(&c[i], "GET /stream HTTP/1.1\r\nHost: h\r\n\r\n");
        b.ids[i] = stub_wait(s, STUB_BODY, i).id;
        client_read_head(&c[i], &r);
    }
    double cpu = loop_cpu(s), wall = seconds(CLOCK_MONOTONIC);
    for (size_t step = 0; step < steps; step++) {
        stub_do(s, write_step, &b);
        for (size_t i = 0; i < n; i++)
            take(&c[i], WIRE_BYTES);
    }
    wall = seconds(CLOCK_MONOTONIC) - wall;
    cpu = loop_cpu(s) - cpu;
    double us = cpu * 1e6 / (double)(n * steps);
    printf("streams %5zu  steps %5zu  HTTP thread %6.2f us CPU a chunk (gate %.0f, ratio %.2f)  step %8.1f us\n", n,
           steps, us, GATE_US, GATE_US / us, wall * 1e6 / (double)steps);
    for (size_t i = 0; i < n; i++)
        client_close(&c[i]);
    reply_fini(&r);
    free(c);
    free(b.ids);
    stub_close(s);
}

int main(int argc, char **argv)
{
    struct rlimit l;
    getrlimit(RLIMIT_NOFILE, &l);
    l.rlim_cur = l.rlim_max;
    setrlimit(RLIMIT_NOFILE, &l);
    if (argc > 1) {
        run((size_t)atol(argv[1]), argc > 2 ? (size_t)atol(argv[2]) : 400);
        return 0;
    }
    run(1, 4000);
    run(256, 400);
    run(1000, 100);
    return 0;
}
