/* seq - see seq.h. */
#include "engine/seq.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static bool wants_seen(const struct engine_sampling *p)
{
    return p->repetition != 1.0f || p->presence != 0.0f || p->frequency != 0.0f;
}

static bool seen_open(struct seq_seen *s, uint32_t n_max)
{
    uint32_t n = 16;
    while (n < 2 * n_max && n < 1u << 31)
        n *= 2;
    s->mask = n - 1;
    s->list = calloc(n_max, sizeof *s->list);
    s->index = malloc(n * sizeof *s->index);
    if (!s->list || !s->index)
        return false;
    memset(s->index, 0xff, n * sizeof *s->index);
    return true;
}

static void seen_note(struct seq_seen *s, int32_t id, bool generated)
{
    uint32_t i = (uint32_t)id * 0x9E3779B9u & s->mask;
    while (s->index[i] >= 0 && s->list[s->index[i]].id != id)
        i = (i + 1) & s->mask;
    if (s->index[i] < 0) {
        s->index[i] = (int32_t)s->n;
        s->list[s->n++] = (struct sample_seen){id, 0};
    }
    s->list[s->index[i]].n_out += generated;
}

struct seq *seq_open(struct request *r, uint32_t choice, const int32_t *prompt, const int32_t *given, uint32_t n_given,
                     uint32_t block_tokens)
{
    uint32_t n_max = r->n_prompt + r->max_tokens;
    assert(r->n_prompt > 0 && n_given <= r->max_tokens);
    struct seq *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->req = r;
    s->choice = choice;
    s->slot = -1;
    s->stop_id = -1;
    s->n_prompt = r->n_prompt;
    table_init(&s->table, block_tokens);
    s->ids = malloc(n_max * sizeof *s->ids);
    s->keys = malloc((n_max / block_tokens + 1) * sizeof *s->keys);
    s->checks = malloc((n_max / block_tokens + 1) * sizeof *s->checks);
    if (r->sampling.n_logprobs >= 0)
        s->logprobs = calloc(ENGINE_CREDIT, sizeof *s->logprobs);
    if (!s->ids || !s->keys || !s->checks || (r->sampling.n_logprobs >= 0 && !s->logprobs) ||
        table_reserve(&s->table, table_blocks_for(block_tokens, n_max)) != 0 ||
        (wants_seen(&r->sampling) && !seen_open(&s->seen, n_max))) {
        seq_close(s);
        return NULL;
    }
    memcpy(s->ids, prompt, r->n_prompt * sizeof *s->ids);
    s->n_known = r->n_prompt;
    for (uint32_t i = 0; s->seen.list && i < r->n_prompt; i++)
        seen_note(&s->seen, prompt[i], false);
    for (uint32_t i = 0; i < n_given; i++)
        seq_append(s, given[i]);
    s->n_sent = s->credit = n_given;
    return s;
}

void seq_close(struct seq *s)
{
    if (!s)
        return;
    assert(s->table.n == 0);
    free(s->ids);
    free(s->keys);
    free(s->checks);
    free(s->logprobs);
    free(s->seen.list);
    free(s->seen.index);
    table_fini(&s->table);
    free(s);
}

void request_close(struct request *r)
{
    if (!r)
        return;
    free(r->bias);
    free(r->stop_ids);
    free(r);
}

void seq_append(struct seq *s, int32_t id)
{
    assert(s->n_known < s->n_prompt + s->req->max_tokens);
    s->ids[s->n_known++] = id;
    if (s->seen.list)
        seen_note(&s->seen, id, true);
}

bool seq_paused(const struct seq *s)
{
    uint32_t n = seq_generated(s) + s->n_ahead;
    if (s->n_ahead > 0 && (s->forks || n >= s->req->max_tokens))
        return true;
    return s->logprobs && n - s->credit >= ENGINE_CREDIT;
}

void seq_sample_row(const struct seq *s, uint32_t choice, struct sample_row *out)
{
    const struct request *r = s->req;
    const struct engine_sampling *p = &r->sampling;
    *out = (struct sample_row){
        .temperature = p->temperature,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .repetition = p->repetition,
        .presence = p->presence,
        .frequency = p->frequency,
        .top_k = p->top_k,
        .n_logprobs = p->n_logprobs,
        .seed = p->seed,
        .position = seq_planned(s),
        .choice = choice,
        .after = s->n_ahead ? s->draw + 1 : 0,
        .n_seen = s->seen.n,
        .seen = s->seen.list,
        .n_bias = r->n_bias,
        .bias = r->bias,
        .n_banned = seq_generated(s) + s->n_ahead < r->min_tokens ? r->n_stop : 0,
        .banned = r->stop_ids,
    };
}

int seq_compare(const struct seq *a, const struct seq *b)
{
    if (a->req->priority != b->req->priority)
        return a->req->priority > b->req->priority ? -1 : 1;
    if (a->req->order != b->req->order)
        return a->req->order < b->req->order ? -1 : 1;
    return a->choice < b->choice ? -1 : a->choice > b->choice;
}
