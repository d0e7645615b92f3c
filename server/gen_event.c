/* gen_event - the engine's events become text, chunks and answers. See gen.h.
 *
 * Tokens wait as ids; pump turns them into text while the client has room, in one place, whether they have just come or
 * the client has just made room.
 */
#include "server/gen.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/base/vec.h"
#include "server/metric.h"
#include "server/sessions_app.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define PIECE_BYTES   2048         /* of text in one event; six times this when all of it is escaped */
#define EVENT_ROOM    16384        /* what nearly every event fits in; those that do not are tried again */
#define IDS_HELD      64           /* ids of tokens without text that wait for a chunk */
#define HEADERS_AFTER 200000000ull /* ns: then a waiting stream gets its headers */
#define LONG_BYTES    16384        /* of a whole answer: more is written by a worker */
#define LOGPROB_BYTES 64           /* about so much JSON each */

/* -- events of a stream */

static void begin_stream(struct gen *g)
{
    struct http_header h[3] = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
    size_t n = 2;
    if (g->p.ignored.len)
        h[n++] = (struct http_header){"x-ignored-params", str_text(&g->p.ignored)};
    http_stream_begin(g->call, 200, "text/event-stream; charset=utf-8", h, n);
    g->streaming = true;
}

/* Hand an event to the client. False: it has no room now (gen_room follows), or the stream is over. */
static bool write_event(struct gen *g, struct str *out)
{
    int ret = out->oom ? -ENOMEM : http_stream_write(g->call, out->data, out->len);
    str_fini(out);
    if (ret == 0 || ret == -EAGAIN)
        return ret == 0;
    /* the client is going, there is no memory, or http.stream_bytes can't hold one event */
    log_debug("gen abort", "id=%s error=\"%s\"", http_request_id(g->call), strerror(-ret));
    gen_cancel_parts(g);
    g->answered = true;
    http_abort(g->call);
    return false;
}

static bool has_room(const struct gen *g)
{
    size_t half = g->app->conf->http.stream_bytes / 2;
    return http_stream_has_room(g->call, half < EVENT_ROOM ? half : EVENT_ROOM);
}

/* Bytes of waiting text that one event takes: whole characters, and little enough for the smallest ring. */
static size_t piece_bytes(const struct gen *g, const struct gen_choice *c)
{
    size_t most = g->app->conf->http.stream_bytes / 16, n = c->text.len;
    if (most > PIECE_BYTES)
        most = PIECE_BYTES;
    if (n <= most)
        return n;
    for (n = most; (c->text.data[n] & 0xc0) == 0x80; n--)
        assert(n > 0); /* the text is UTF-8 */
    return n;
}

/* Send the next piece of what the choice has gathered, or with `finish` its end. */
static bool send_chunk(struct gen *g, struct gen_choice *c, const char *finish)
{
    struct str out = {0};
    size_t n = piece_bytes(g, c);
    if (!has_room(g))
        return false;
    gen_put_chunk(g, c, n, finish, &out);
    if (!write_event(g, &out))
        return false;
    c->begun = true;
    c->n_sent = c->n_done;
    str_drop(&c->text, n);
    return true;
}

/* Text leaves at once. Log probabilities belong to their token, with or without text; bare ids may wait a little. */
static bool has_chunk(const struct gen *g, const struct gen_choice *c)
{
    size_t held = c->n_done - c->n_sent;
    return c->text.len || (c->lps && held) || (g->p.return_token_ids && held >= IDS_HELD);
}

/* Send all that the choice has; false when it has to wait or the stream is over. */
static bool flush_choice(struct gen *g, struct gen_choice *c)
{
    while (has_chunk(g, c))
        if (!send_chunk(g, c, NULL))
            return false;
    if (!c->finish || c->closed)
        return true;
    c->closed = send_chunk(g, c, c->finish);
    g->n_open -= c->closed;
    return c->closed;
}

static bool finish_stream(struct gen *g)
{
    struct str out = {0};
    if (!has_room(g))
        return false;
    if (g->p.include_usage)
        gen_put_usage_chunk(g, &out);
    str_puts(&out, "data: [DONE]\n\n");
    if (!write_event(g, &out))
        return false;
    http_stream_end(g->call);
    g->answered = true;
    return true;
}

/* -- tokens to text */

static void close_choice(struct gen *g, struct gen_choice *c, const char *finish)
{
    c->finish = finish;
    c->n_ids = c->n_done;
    if (g->p.stream)
        return; /* closed when its last chunk is sent */
    c->closed = true;
    g->n_open--;
}

static uint32_t choice_of(const struct gen *g, const struct gen_choice *c)
{
    return (uint32_t)(c - g->choices) % (uint32_t)g->p.n;
}

static struct gen_part *part_of(const struct gen *g, const struct gen_choice *c)
{
    return &g->parts[(uint32_t)(c - g->choices) / (uint32_t)g->p.n];
}

static uint32_t chars_in(const struct str *s)
{
    uint32_t n = 0;
    for (size_t i = 0; i < s->len; i++)
        n += (s->data[i] & 0xc0) != 0x80;
    return n;
}

/* One token becomes text; a stop string ends the choice. The text of the first min_tokens is not searched. */
static void take_token(struct gen *g, struct gen_choice *c)
{
    struct str piece = {0};
    int32_t id = c->ids[c->n_done++];
    detok_push(&c->detok, g->app->tok, id, g->p.skip_special_tokens, &piece);
    if (c->offsets)
        c->offsets[c->n_done - 1] = c->n_chars;
    c->n_chars += chars_in(&piece);
    int found = -1;
    if ((int64_t)c->n_done > g->p.min_tokens)
        found = stop_push(&c->stop, &g->p.stop, str_text(&piece), piece.len, &c->text);
    else
        str_add(&c->text, str_text(&piece), piece.len);
    c->text.oom |= piece.oom;
    str_fini(&piece);
    if (found < 0)
        return;
    struct gen_part *part = part_of(g, c);
    c->stop_text = found;
    if (!c->ended && part->live)
        engine_cancel_choice(g->app->engine, part->engine_id, choice_of(g, c));
    close_choice(g, c, "stop");
}

static void end_choice(struct gen *g, struct gen_choice *c)
{
    struct str piece = {0};
    detok_finish(&c->detok, &piece);
    int found = stop_push(&c->stop, &g->p.stop, str_text(&piece), piece.len, &c->text);
    c->text.oom |= piece.oom;
    str_fini(&piece);
    if (found < 0)
        stop_flush(&c->stop, &c->text);
    else
        c->stop_text = found;
    close_choice(g, c, found >= 0 || c->stop_id >= 0 ? "stop" : "length");
}

static void put_echo(struct gen *g, struct gen_choice *c)
{
    const struct gen_part *part = part_of(g, c);
    if (part->echo)
        str_add(&c->text, part->echo, part->n_echo);
    c->n_chars = chars_in(&c->text);
    c->echoed = true;
}

/* Turn waiting tokens of a choice into the answer while there is room. */
static void pump_choice(struct gen *g, struct gen_choice *c)
{
    if (!c->echoed && (c->n_ids || c->ended))
        put_echo(g, c);
    while (!g->p.stream || flush_choice(g, c)) {
        if (c->finish)
            break;
        if (c->n_done < c->n_ids)
            take_token(g, c);
        else if (c->ended)
            end_choice(g, c);
        else
            break;
    }
    if (c->lps && !c->finish && part_of(g, c)->live)
        engine_credit(g->app->engine, part_of(g, c)->engine_id, choice_of(g, c), (uint32_t)c->n_done);
}

/* -- the whole answer */

static void send_whole(struct gen *g)
{
    struct http_header h = {"x-ignored-params", str_text(&g->p.ignored)};
    if (g->out.oom) {
        api_fail(&g->error, 503, "out_of_memory", NULL, "no memory for the answer");
        gen_fail(g);
    } else {
        http_answer(g->call, 200, "application/json", &h, g->p.ignored.len ? 1 : 0, g->out.data, g->out.len);
    }
    str_fini(&g->out);
}

static void build_whole(struct worker_job *j)
{
    struct gen *g = (struct gen *)(void *)j;
    gen_put_answer(g, &g->out);
}

static void built_whole(struct worker_job *j)
{
    struct gen *g = (struct gen *)(void *)j;
    g->in_worker = false;
    if (g->call)
        send_whole(g);
    else
        gen_free(g);
}

/* Is the answer so long that writing it would hold up the loop? */
static bool is_long(const struct gen *g)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < g->n_choices; i++) {
        const struct gen_choice *c = &g->choices[i];
        bytes += c->text.len + (c->lps ? c->n_done * (size_t)(1 + c->lps[0].n_top) * LOGPROB_BYTES : 0);
    }
    return bytes > LONG_BYTES;
}

static void finish_whole(struct gen *g)
{
    g->answered = true; /* nothing changes any more: a worker may read it */
    g->job.work = build_whole;
    g->job.done = built_whole;
    g->in_worker = is_long(g) && workers_submit(g->app->workers, &g->job) == 0;
    if (g->in_worker)
        return;
    gen_put_answer(g, &g->out);
    send_whole(g);
}

/* -- what moves it */

static void finish_if_over(struct gen *g)
{
    if (g->answered || g->n_open || g->n_live)
        return;
    if (g->p.stream)
        finish_stream(g);
    else
        finish_whole(g);
}

void gen_room(struct gen *g)
{
    /* on from where the room ended last time: no choice waits for all before it */
    for (uint32_t i = 0; i < g->n_choices && !g->answered && has_room(g); i++) {
        uint32_t at = g->turn;
        g->turn = (at + 1) % g->n_choices;
        pump_choice(g, &g->choices[at]);
    }
    if (g->choices)
        finish_if_over(g);
}

void gen_tick(struct gen *g, uint64_t now_ns)
{
    if (g->call && !g->in_worker && g->p.stream && g->n_live && !g->streaming && !g->answered &&
        now_ns - g->submitted_ns > HEADERS_AFTER)
        begin_stream(g);
}

static void queue_tokens(struct gen *g, struct gen_choice *c, const struct engine_event *ev)
{
    if (c->finish)
        return; /* behind a stop string */
    if (vec_grow(&c->ids, &c->cap_ids, c->n_ids + ev->n, sizeof *c->ids) != 0 ||
        (ev->logprobs && (vec_grow(&c->lps, &c->cap_lps, c->n_ids + ev->n, sizeof *c->lps) != 0 ||
                          vec_grow(&c->offsets, &c->cap_offsets, c->n_ids + ev->n, sizeof *c->offsets) != 0))) {
        gen_engine_failed(g, ENGINE_FAIL_INTERNAL, "no memory for the answer");
        return;
    }
    memcpy(c->ids + c->n_ids, ev->tokens, ev->n * sizeof *c->ids);
    if (ev->logprobs)
        memcpy(c->lps + c->n_ids, ev->logprobs, ev->n * sizeof *c->lps);
    c->n_ids += ev->n;
    uint64_t now = sys.now_ns();
    if (!g->first_ns) {
        g->first_ns = now;
        metric_observe(METRIC_TTFT, now - http_start_ns(g->call));
    }
    for (uint32_t i = 0; c->last_ns && i < ev->n; i++)
        metric_observe(METRIC_ITL, (now - c->last_ns) / ev->n);
    c->last_ns = g->last_ns = now;
}

static void note_done(struct gen *g, struct gen_part *part, const struct engine_event *ev)
{
    part->cached = ev->cached;
    memcpy(part->cached_in, ev->cached_in, sizeof part->cached_in);
    memcpy(part->missed, ev->missed, sizeof part->missed);
    part->divergent = ev->divergent;
    part->queue_us = ev->queue_us;
    part->load_us = ev->load_us;
    part->prefill_us = ev->prefill_us;
    part->decode_us = ev->decode_us;
    part->live = false;
    g->n_live--;
    idmap_remove(&g->app->parts, part->engine_id);
    metric_observe(METRIC_QUEUE_TIME, ev->queue_us * 1000);
    metric_observe(METRIC_PREFILL_TIME, ev->prefill_us * 1000);
    metric_observe(METRIC_DECODE_TIME, ev->decode_us * 1000);
    metric_observe(METRIC_INFERENCE_TIME, (ev->prefill_us + ev->decode_us) * 1000);
    metric_observe(METRIC_REQUEST_PROMPT, ev->total);
    metric_observe(METRIC_REQUEST_COMPUTED, ev->total - ev->cached);
}

static void send_progress(struct gen *g, struct gen_part *part, const struct engine_event *ev)
{
    struct str out = {0};
    part->progress = ev->done;
    part->cached = ev->cached;
    if (!has_room(g))
        return; /* the next one says more */
    gen_put_progress_chunk(g, part, &out);
    write_event(g, &out);
}

void gen_event(struct gen_part *part, const struct engine_event *ev)
{
    struct gen *g = part->gen;
    struct gen_choice *c = &g->choices[part->index * (uint32_t)g->p.n + ev->choice];
    if (ev->type == ENGINE_FAILED) {
        part->live = false; /* the engine has forgotten it */
        g->n_live--;
        idmap_remove(&g->app->parts, part->engine_id);
        gen_engine_failed(g, ev->failure, ev->text);
        return;
    }
    if (g->p.stream && !g->streaming)
        begin_stream(g);
    switch (ev->type) {
    case ENGINE_TOKENS:
        queue_tokens(g, c, ev);
        break;
    case ENGINE_PROGRESS:
        send_progress(g, part, ev);
        return;
    case ENGINE_CHOICE_DONE:
        c->ended = true;
        c->stop_id = ev->stop_id;
        /* a stop string may have ended it before the engine heard of that */
        metric_add(c->finish || ev->finish == ENGINE_FINISH_STOP ? METRIC_FINISH_STOP
                   : ev->finish == ENGINE_FINISH_LENGTH          ? METRIC_FINISH_LENGTH
                                                                 : METRIC_FINISH_CANCELLED,
                   1);
        break;
    case ENGINE_LEAF:
        app_session_leaf(g->app, g->session, &ev->leaf);
        break;
    case ENGINE_DONE:
        note_done(g, part, ev);
        break;
    default:
        break;
    }
    if (g->answered)
        return;
    if (!c->closed)
        pump_choice(g, c);
    finish_if_over(g);
}
