/* whole_server - see whole_server.h. */
#include "tests/support/whole_server.h"

#include "engine/base/log.h"
#include "server/app.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define WAIT_S    20
#define LOOKS_A_S 20
#define STREAM    "\"stream\":true,\"stream_options\":{\"include_usage\":true},"
#define RICH                                                                                  \
    "\"n\":2,\"seed\":3,\"stop\":[\"one\",\"two\"],\"logit_bias\":{\"97\":3,\"98\":-3},"      \
    "\"frequency_penalty\":0.5,\"presence_penalty\":0.5,\"repetition_penalty\":1.1,\"user\":" \
    "\"u\",\"nobody_knows\":1,"

static struct app app;
static struct config conf;
static pthread_t thread;
static struct err run_error;
static int run_result, port;
static atomic_bool ended;
static char bytes[1 << 21];

/* Something must not happen; Check's assertions allocate. */
static void give_up(const char *what)
{
    fprintf(stderr, "whole_server: %s\n", what);
    abort();
}

void whole_configure(void)
{
    static const char *const keys[][2] = {
        {"model.random", "tiny"},     {"engine.mode", "thread"}, {"listen", "127.0.0.1:0"}, {"kv.bytes", "8MiB"},
        {"kv.prefix_cache", "false"}, {"cpu.threads", "1"},      {"backend", "cpu"}};
    struct err e = {0};
    log_set_level(LOG_ERROR);
    int ret = config_init(&conf, &e);
    for (size_t i = 0; !ret && i < sizeof keys / sizeof *keys; i++)
        ret = config_set(&conf, keys[i][0], keys[i][1], CONFIG_SET, "test", &e);
    if (ret || config_finish(&conf, &e) != 0)
        give_up(e.text);
}

/* -- the server */

static void *serve(void *arg)
{
    (void)arg;
    run_result = app_run(&app, &run_error);
    atomic_store(&ended, true);
    return NULL;
}

int whole_start(struct err *e)
{
    int ret = app_open(&app, &conf, e);
    if (ret)
        return ret;
    run_error = (struct err){0};
    run_result = 0;
    atomic_store(&ended, false);
    port = atoi(strrchr(app.urls.v[0], ':') + 1);
    if (pthread_create(&thread, NULL, serve, NULL) != 0)
        give_up("no thread");
    return 0;
}

bool whole_ended(void)
{
    return atomic_load(&ended);
}

bool whole_wait_ready(void)
{
    struct answer a;
    for (int i = 0; i < WAIT_S * 1000; i++) {
        if (whole_ended())
            return false;
        whole_ask("GET /ready HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", &a);
        if (a.kind == ANSWER_WHOLE)
            return true;
        usleep(1000);
    }
    give_up("not ready");
    return false;
}

int whole_stop(struct err *e)
{
    http_stop(app.http);
    pthread_join(thread, NULL);
    app_close(&app);
    *e = run_error;
    return run_result;
}

void whole_wait_idle(void)
{
    struct engine_stats st;
    for (int i = 0; i < WAIT_S * 5000; i++) {
        engine_get_stats(app.engine, &st);
        if (st.used_blocks == 0 && st.running == 0 && st.waiting == 0 && st.waiting_tokens == 0)
            return;
        usleep(200);
    }
    give_up("blocks or sequences are left over");
}

/* -- the client */

static int open_client(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval limit = {0, 1000000 / LOOKS_A_S};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0)
        give_up("no socket");
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
        return fd;
    close(fd); /* the server has just ended by itself */
    return -1;
}

/* Receive; -1 at the end, whatever kind. A server that has ended closes nothing until whole_stop. */
static ssize_t receive(int fd, char *to, size_t cap)
{
    for (int i = 0; i < WAIT_S * LOOKS_A_S; i++) {
        ssize_t got = recv(fd, to, cap, 0);
        if (got > 0)
            return got;
        if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK) || whole_ended())
            return -1;
    }
    give_up("no byte for 20 s: it hangs");
    return -1;
}

void whole_ask(const char *request, struct answer *out)
{
    size_t n = 0;
    ssize_t got;
    int fd = open_client();
    if (fd >= 0) {
        send(fd, request, strlen(request), MSG_NOSIGNAL);
        while (n < sizeof bytes - 1 && (got = receive(fd, bytes + n, sizeof bytes - 1 - n)) > 0)
            n += (size_t)got;
        close(fd);
    }
    answer_judge(bytes, n, out);
}

const char *whole_bytes(void)
{
    return bytes;
}

/* -- requests */

static const char *make_request(char *out, size_t cap, const char *path, const char *body)
{
    int n = snprintf(out, cap, "POST %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                     path, strlen(body), body);
    if (n < 0 || (size_t)n >= cap)
        give_up("a request is too long");
    return out;
}

static char body[1 << 14];
static size_t body_len;

__attribute__((format(printf, 1, 2))) static void put(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    body_len += (size_t)vsnprintf(body + body_len, sizeof body - body_len, fmt, ap);
    va_end(ap);
}

static void put_prompts(int n)
{
    put("\"prompt\":[");
    for (int i = 0; i < n; i++)
        put(i % 4 == 3 ? "%s[%d,104,101,97,114,116,104]" : "%s\"prompt number %d\"", i ? "," : "", i);
    put("]}");
}

struct whole_requests whole_make_requests(void)
{
    static char chat[1 << 15], stream[1 << 15], whole[1 << 15], wrong[1 << 10], small[1 << 10];
    struct whole_requests r;
    body_len = 0;
    put("{" STREAM RICH "\"max_tokens\":12,\"logprobs\":true,\"top_logprobs\":3,\"messages\":[");
    for (int i = 0; i < 30; i++)
        put("%s{\"role\":\"%s\",\"content\":[{\"type\":\"text\",\"text\":\"message %d\"}]}", i ? "," : "",
            i == 0  ? "system"
            : i % 2 ? "user"
                    : "assistant",
            i);
    put("]}");
    r.chat = make_request(chat, sizeof chat, "/v1/chat/completions", body);
    body_len = 0;
    put("{" STREAM RICH "\"max_tokens\":6,\"logprobs\":2,\"return_progress\":true,\"return_token_ids\":true,");
    put_prompts(4);
    r.stream = make_request(stream, sizeof stream, "/v1/completions", body);
    body_len = 0;
    put("{" RICH "\"max_tokens\":4,\"logprobs\":2,\"return_token_ids\":true,");
    put_prompts(20);
    r.whole = make_request(whole, sizeof whole, "/v1/completions", body);
    r.wrong = make_request(wrong, sizeof wrong, "/v1/completions", "{\"prompt\":\"x\",\"n\":0}");
    r.small = make_request(small, sizeof small, "/v1/completions",
                           "{\"prompt\":\"calm\",\"max_tokens\":8,\"temperature\":0}");
    return r;
}
