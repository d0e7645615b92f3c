/* test_alloc - the whole server in one process while the Nth allocation fails, for every N through two requests: only
 * the request at hand suffers, with a well-formed answer or a closed connection; the next one is served as ever, and
 * nothing is left over.
 */
#include "tests/support/failing_malloc.h"
#include "tests/support/unit.h"

#include "engine/base/log.h"
#include "server/app.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define LEAST_ALLOCATIONS 500

/* The client's side without an allocation, so that all that fail are the server's. */
static char answer[1 << 20], chat[1 << 16], completions[1 << 16], small[1 << 12], calm[2048];
static struct app app;
static struct config conf;
static int port;

static void *serve(void *arg)
{
    struct err e;
    return app_run(&app, &e) == 0 ? NULL : arg;
}

/* Send a whole request, read until the server closes. Bytes of the answer (0: closed without one). */
static size_t ask(const char *request)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval limit = {20, 0};
    size_t n = 0;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0 ||
        connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        abort(); /* Check's assertions allocate */
    send(fd, request, strlen(request), MSG_NOSIGNAL);
    for (;;) {
        ssize_t got = recv(fd, answer + n, sizeof answer - 1 - n, 0);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            abort(); /* 20 s without a byte: it hangs */
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    close(fd);
    answer[n] = 0;
    return n;
}

static bool has(const char *text)
{
    return strstr(answer, text) != NULL;
}

/* Nothing; a whole answer; an error with its JSON; a stream that ended well, with an error event, or cut. */
static bool well_formed(size_t n)
{
    if (n == 0)
        return true;
    if (strncmp(answer, "HTTP/1.1 200 ", 13) == 0)
        return has("text/event-stream") ? !has("\r\n0\r\n\r\n") || has("data: [DONE]") || has("\"error\":{")
                                        : has("\"usage\":{") && answer[n - 1] == '}';
    return (strncmp(answer, "HTTP/1.1 4", 10) == 0 || strncmp(answer, "HTTP/1.1 5", 10) == 0) &&
           has("{\"error\":{\"message\":");
}

static void put_request(char *out, size_t cap, const char *path, const char *body)
{
    snprintf(out, cap, "POST %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", path,
             strlen(body), body);
}

static void make_requests(void)
{
    static char body[1 << 15];
    size_t n = (size_t)snprintf(body, sizeof body,
                                "{\"stream\":true,\"stream_options\":{\"include_usage\":true},\"n\":2,"
                                "\"max_tokens\":12,\"seed\":3,\"logprobs\":true,\"top_logprobs\":3,\"stop\":"
                                "[\"one\",\"two\"],\"logit_bias\":{\"97\":3,\"98\":-3},"
                                "\"frequency_penalty\":0.5,\"repetition_penalty\":1.1,\"messages\":[");
    for (int i = 0; i < 30; i++)
        n += (size_t)snprintf(body + n, sizeof body - n, "%s{\"role\":\"%s\",\"content\":\"message %d\"}", i ? "," : "",
                              i == 0       ? "system"
                              : i % 2 == 1 ? "user"
                                           : "assistant",
                              i);
    snprintf(body + n, sizeof body - n, "]}");
    put_request(chat, sizeof chat, "/v1/chat/completions", body);
    n = (size_t)snprintf(body, sizeof body,
                         "{\"max_tokens\":3,\"seed\":1,\"logprobs\":1,\"echo\":false,\"presence_penalty\":1,"
                         "\"prompt\":[");
    for (int i = 0; i < 40; i++)
        n += (size_t)snprintf(body + n, sizeof body - n, "%s\"prompt number %d\"", i ? "," : "", i);
    snprintf(body + n, sizeof body - n, "]}");
    put_request(completions, sizeof completions, "/v1/completions", body);
    put_request(small, sizeof small, "/v1/completions", "{\"prompt\":\"calm\",\"max_tokens\":8,\"temperature\":0}");
}

/* The choices of the small request, which never change. */
static void small_choices(char out[2048])
{
    ask(small);
    const char *from = strstr(answer, "\"choices\""), *to = strstr(answer, "\"timings\"");
    size_t n = from && to && to > from && to - from < 2000 ? (size_t)(to - from) : 0;
    memcpy(out, from ? from : "", n);
    out[n] = 0;
}

static void start(pthread_t *thread)
{
    static const char *const keys[][2] = {{"model.random", "tiny"},     {"engine.mode", "thread"},
                                          {"listen", "127.0.0.1:0"},    {"kv.bytes", "8MiB"},
                                          {"kv.prefix_cache", "false"}, {"cpu.threads", "1"}};
    struct err e = {0};
    log_set_level(LOG_ERROR);
    ck_assert_int_eq(config_init(&conf, &e), 0);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        ck_assert_msg(config_set(&conf, keys[i][0], keys[i][1], CONFIG_SET, "test", &e) == 0, "%s", e.text);
    ck_assert_msg(config_finish(&conf, &e) == 0, "%s", e.text);
    ck_assert_msg(app_open(&app, &conf, &e) == 0, "%s", e.text);
    port = atoi(strrchr(app.urls.v[0], ':') + 1);
    ck_assert_int_eq(pthread_create(thread, NULL, serve, &app), 0);
    for (int i = 0; i < 1000; i++) {
        ask("GET /ready HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        if (has("\"ready\""))
            return;
        usleep(10000); /* bounded: the model is tiny */
    }
    ck_abort_msg("not ready: %s", answer);
}

/* Every N of one request. How many allocations a run without failure makes. */
static unsigned long fail_each(const char *request, const char *what)
{
    char now[2048];
    bool hit = true;
    unsigned long n = 1;
    for (; hit; n++) {
        fail_nth(n);
        size_t bytes = ask(request);
        unsigned long made = fail_stop();
        hit = made >= n;
        ck_assert_msg(well_formed(bytes), "%s, allocation %lu of %lu: %.300s", what, n, made, answer);
        small_choices(now);
        ck_assert_msg(strcmp(now, calm) == 0, "%s, after allocation %lu failed: %.300s", what, n, now);
    }
    printf("%s: %lu allocations\n", what, n - 2);
    return n - 2;
}

START_TEST(test_every_allocation_may_fail_and_only_its_request_suffers)
{
    pthread_t thread;
    void *failed;
    struct engine_stats st;
    make_requests();
    start(&thread);
    small_choices(calm);
    ck_assert_uint_gt(strlen(calm), 20);
    unsigned long n = fail_each(chat, "chat") + fail_each(completions, "completions");
    ck_assert_uint_ge(n, LEAST_ALLOCATIONS);
    ask(chat);
    ck_assert(has("data: [DONE]"));
    for (int i = 0; i < 1000; i++) { /* what was cancelled last goes within a step or two */
        engine_get_stats(app.engine, &st);
        if (st.used_blocks == 0 && st.running == 0)
            break;
        usleep(1000);
    }
    ck_assert_uint_eq(st.used_blocks, 0);
    ck_assert_uint_eq(st.running + st.waiting, 0);
    http_stop(app.http);
    pthread_join(thread, &failed);
    ck_assert_ptr_null(failed);
    ck_assert_uint_eq(app.n_gens, 0);
    app_close(&app);
    config_fini(&conf);
}
END_TEST

UNIT_MAIN("alloc", test_every_allocation_may_fail_and_only_its_request_suffers)
