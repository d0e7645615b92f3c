/* gen_event - the engine's events become text, chunks and answers. See gen.h.
 *
 * Tokens wait as ids; pump turns them into text while the client has room, in one place, whether they have just come or
 * the client has just made room.
 */
#include "server/gen.h"

#include "engine/base/sys.h"
#include "engine/base/vec.h"
#include "server/metric.h"

#include <string.h>

#define CHUNK_ROOM    16384        /* room that the events of one token never pass */
#define HEADERS_AFTER 200000000ull /* ns: then a waiting stream gets its headers */

static void begin_stream(struct gen *g)
{
    struct http_header h[3] = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
    size_t n = 2;
    if (g->p.ignored.len)
        h[n++] = (struct http_header){"x-ignored-params", str_text(&g->p.ignored)};
    http_stream_begin(g->call, 200, "text/event-stream; charset=utf-8", h, n);
    g->streaming = true;
}

static void write_event(struct gen *g, struct str *out)
{
    if (out->oom || http_stream_write(g->call, out->data, out->len) != 0) {
        /* gen_pump left room for what a token can need: the client is going, or there is no memory */
        gen_cancel_parts(g);
        g->answered = true;
        http_abort(g->call);
    }
    str_fini(out);
}

/* Send what the choice has gathered as one chunk. */
static void send_chunk(struct gen *g, struct gen_choice *c, const char *finish)
{
    struct str out = {0};
    gen_put_chunk(g, c, finish, &out);
    c->begun = true;
    c->n_sent = c->n_done;
    str_cut(&c->text, 0);
    write_event(g, &out);
}

static void close_choice(struct gen *g, struct gen_choice *c, const char *finish)
{
    c->finish = finish;
    c->n_ids = c->n_done;
    g->n_open--;
    if (!g->p.stream)
        return;
    if (c->text.len || (c->lps && c->n_sent < c->n_done))
        send_chunk(g, c, NULL);
    if (!g->answered)
        send_chunk(g, c, finish);
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

/* One token becomes text; a stop string ends the choice. */
static void take_token(struct gen *g, struct gen_choice *c)
{
    struct str piece = {0};
    int32_t id = c->ids[c->n_done++];
    detok_push(&c->detok, g->app->tok, id, g->p.skip_special_tokens, &piece);
    if (c->offsets)
        c->offsets[c->n_done - 1] = c->n_chars;
    c->n_chars += chars_in(&piece);
    int found = stop_push(&c->stop, &g->p.stop, str_text(&piece), piece.len, &c->text);
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
    if (!c->begun && c->n_done == 0 && part->echo)
        str_add(&c->text, part->echo, part->n_echo);
    c->n_chars = chars_in(&c->text);
}

/* Turn waiting tokens of a choice into the answer while there is room. */
static void pump_choice(struct gen *g, struct gen_choice *c)
{
    if (c->n_ids && c->n_done == 0)
        put_echo(g, c);
    while (!c->finish && !g->answered && c->n_done < c->n_ids) {
        if (g->p.stream && !http_stream_has_room(g->call, CHUNK_ROOM))
            return; /* gen_room goes on */
        take_token(g, c);
        if (g->p.stream && !c->finish && c->text.len)
            send_chunk(g, c, NULL);
    }
    if (c->lps && !c->finish && part_of(g, c)->live)
        engine_credit(g->app->engine, part_of(g, c)->engine_id, choice_of(g, c), (uint32_t)c->n_done);
    if (c->ended && !c->finish && !g->answered)
        end_choice(g, c);
}

static void finish_stream(struct gen *g)
{
    struct str out = {0};
    if (g->p.include_usage)
        gen_put_usage_chunk(g, &out);
    str_puts(&out, "data: [DONE]\n\n");
    write_event(g, &out);
    if (!g->answered)
        http_stream_end(g->call);
    g->answered = true;
}

static void finish_whole(struct gen *g)
{
    struct str out = {0};
    struct http_header h = {"x-ignored-params", str_text(&g->p.ignored)};
    gen_put_answer(g, &out);
    g->answered = true;
    if (out.oom) {
        api_fail(&g->error, 503, "out_of_memory", NULL, "no memory for the answer");
        gen_fail(g);
    } else {
        http_answer(g->call, 200, "application/json", &h, g->p.ignored.len ? 1 : 0, out.data, out.len);
    }
    str_fini(&out);
}

static void pump(struct gen *g)
{
    for (uint32_t i = 0; i < g->n_choices && !g->answered; i++)
        if (!g->choices[i].finish)
            pump_choice(g, &g->choices[i]);
    if (g->answered || g->n_open || g->n_live)
        return;
    if (g->p.stream)
        finish_stream(g);
    else
        finish_whole(g);
}

void gen_room(struct gen *g)
{
    if (!g->answered && g->choices)
        pump(g);
}

void gen_tick(struct gen *g, uint64_t now_ns)
{
    if (g->call && g->p.stream && g->n_live && !g->streaming && !g->answered &&
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
    part->queue_us = ev->queue_us;
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
    if (!http_stream_has_room(g->call, CHUNK_ROOM))
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
        metric_add(ev->finish == ENGINE_FINISH_CANCELLED && !c->finish ? METRIC_FINISH_CANCELLED
                   : ev->finish == ENGINE_FINISH_LENGTH                ? METRIC_FINISH_LENGTH
                                                                       : METRIC_FINISH_STOP,
                   1);
        break;
    case ENGINE_DONE:
        note_done(g, part, ev);
        break;
    default:
        break;
    }
    if (!g->answered)
        pump(g);
}
