/* sched - see sched.h. */
#include "engine/sched.h"

#include "engine/base/vec.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int sched_open(struct sched *s, const struct sched_limits *limits, struct kvcache *kv)
{
    assert(limits->max_seqs > 0 && limits->max_seqs <= limits->max_rows);
    memset(s, 0, sizeof *s);
    s->limits = *limits;
    s->kv = kv;
    kv->budget = &s->budget;
    kv->step_rows = limits->max_rows;
    budget_init(&s->budget);
    s->slots = calloc(limits->max_seqs, sizeof *s->slots);
    s->running = calloc(limits->max_seqs, sizeof *s->running);
    s->prefill = calloc(limits->max_seqs, sizeof *s->prefill);
    s->plan.runs = calloc(limits->max_seqs, sizeof *s->plan.runs);
    s->plan.copies = calloc(limits->max_seqs, sizeof *s->plan.copies);
    if (!s->slots || !s->running || !s->prefill || !s->plan.runs || !s->plan.copies) {
        sched_close(s);
        return -ENOMEM;
    }
    return 0;
}

void sched_close(struct sched *s)
{
    free(s->slots);
    free(s->running);
    free(s->waiting);
    free(s->prefill);
    free(s->plan.runs);
    free(s->plan.copies);
    memset(s, 0, sizeof *s);
}

/* -- the two ordered lists */

/* Where q stands or would stand in a list in queue order. */
static size_t place_of(struct seq *const *list, size_t n, const struct seq *q)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (seq_compare(list[mid], q) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void list_insert(struct seq **list, size_t n, struct seq *q)
{
    size_t at = place_of(list, n, q);
    memmove(list + at + 1, list + at, (n - at) * sizeof *list);
    list[at] = q;
}

static void list_remove(struct seq **list, size_t n, const struct seq *q)
{
    size_t at = place_of(list, n, q);
    assert(at < n && list[at] == q);
    memmove(list + at, list + at + 1, (n - at - 1) * sizeof *list);
}

static uint32_t choices_to_come(const struct seq *q)
{
    return q->forks ? q->req->n - 1 : 0;
}

static int wait_again(struct sched *s, struct seq *q)
{
    int ret = vec_grow(&s->waiting, &s->cap_waiting, s->n_waiting + 1, sizeof *s->waiting);
    if (ret)
        return ret;
    list_insert(s->waiting, s->n_waiting++, q);
    s->waiting_tokens += q->n_known;
    q->state = SEQ_WAITING;
    return 0;
}

int sched_add(struct sched *s, struct seq *q)
{
    /* room for every running sequence too, so that preemption never allocates */
    int ret = vec_grow(&s->waiting, &s->cap_waiting, s->n_waiting + 1 + s->limits.max_seqs, sizeof *s->waiting);
    return ret ? ret : wait_again(s, q);
}

static void leave_queue(struct sched *s, struct seq *q)
{
    kvcache_unfetch(s->kv, q);
    list_remove(s->waiting, s->n_waiting--, q);
    s->waiting_tokens -= q->n_known;
}

static void enter_slot(struct sched *s, struct seq *q)
{
    uint32_t slot = 0;
    while (s->slots[slot])
        slot++;
    assert(slot < s->limits.max_seqs && s->n_running < s->limits.max_seqs);
    s->slots[slot] = q;
    q->slot = (int32_t)slot;
    q->state = SEQ_RUNNING;
    list_insert(s->running, s->n_running++, q);
}

static void leave_slot(struct sched *s, struct seq *q)
{
    kvcache_release(s->kv, q);
    list_remove(s->running, s->n_running--, q);
    s->slots[q->slot] = NULL;
    q->slot = -1;
    s->slots_promised -= choices_to_come(q);
}

static uint64_t absent_rows(const struct seq *q)
{
    uint64_t begin, end;
    return table_next_absent(&q->table, q->n_known, &begin, &end) ? q->n_known - begin : 0;
}

/* Sequences besides q that a step's time is lost for: those that wait, and those that run, but for those that have to
 * wait for something else: for their readers, or for what they load. */
static uint32_t count_others(const struct sched *s, const struct seq *q)
{
    uint32_t n = (uint32_t)s->n_waiting - (q->state == SEQ_WAITING);
    for (uint32_t i = 0; i < s->n_running; i++) {
        const struct seq *o = s->running[i];
        n += o != q && !seq_paused(o) && (o->n_loading == 0 || absent_rows(o) > 0);
    }
    return n;
}

/* q goes back to the queue, for others to have n_free blocks now. */
static void preempt(struct sched *s, struct seq *q, uint32_t n_free)
{
    s->kv->others = count_others(s, q);
    kvcache_swap(s->kv, q, n_free);
    leave_slot(s, q);
    int ret = wait_again(s, q);
    assert(ret == 0); /* sched_add made the room */
    (void)ret;
    s->n_preempted++;
}

void sched_adopt(struct sched *s, struct seq *parent, struct seq *child)
{
    assert(parent->forks && s->slots_promised > 0);
    s->slots_promised--;
    kvcache_fork(s->kv, parent, child);
    enter_slot(s, child);
}

void sched_accept(struct sched *s, struct seq *q, int32_t id)
{
    seq_append(q, id);
    s->waiting_tokens += q->state == SEQ_WAITING; /* preempted while the token was on its way */
}

void sched_remove(struct sched *s, struct seq *q)
{
    if (q->state == SEQ_RUNNING)
        leave_slot(s, q);
    else if (q->state == SEQ_WAITING)
        leave_queue(s, q);
    q->state = SEQ_OVER; /* an unborn choice stands nowhere */
}

/* -- what comes from below the pool */

#define FETCH_SEQS 16 /* queued sequences that are looked at in a turn */

static void settle(struct sched *s)
{
    for (uint32_t i = 0; i < s->n_running;) {
        struct seq *q = s->running[i];
        if (q->n_loading > 0 && kvcache_settle(s->kv, q) != 0)
            preempt(s, q, 1); /* the next one has its place */
        else
            i++;
    }
}

/* The last in the queue that has something held for it does without. */
static bool give_way(struct sched *s)
{
    size_t i = s->n_waiting;
    while (i > 0 && s->waiting[i - 1]->n_fetched == 0)
        i--;
    if (i > 0)
        kvcache_unfetch(s->kv, s->waiting[i - 1]);
    return i > 0;
}

bool sched_move(struct sched *s)
{
    bool any = kvcache_move(s->kv);
    settle(s);
    kvcache_moved(s->kv);
    if (kvcache_starved(s->kv))
        return give_way(s) || any;
    for (size_t i = 0; s->kv->tiers && i < s->n_waiting && i < FETCH_SEQS; i++)
        if (!kvcache_fetch(s->kv, s->waiting[i]))
            break;
    return any;
}

/* -- a step */

/* Blocks for n_tokens of q, and the block of `from` its own: preempting from the back of the running list if need be.
 * False when q itself had to go. */
static bool ensure_blocks(struct sched *s, struct seq *q, uint64_t from, uint64_t n_tokens)
{
    struct kvcache_copy copy;
    for (;;) {
        int ret = kvcache_extend(s->kv, q, n_tokens);
        if (ret == 0 && (ret = kvcache_own(s->kv, q, from, &copy)) >= 0) {
            if (ret == 1)
                s->plan.copies[s->plan.n_copies++] = copy;
            return true;
        }
        struct seq *victim = s->running[s->n_running - 1];
        preempt(s, victim, kvcache_missing(s->kv, q, n_tokens) + 1);
        if (victim == q)
            return false;
    }
}

static void add_run(struct sched *s, struct seq *q, uint64_t begin, uint32_t rows)
{
    struct plan *p = &s->plan;
    bool last = begin + rows == seq_planned(q);
    uint32_t draws = !last ? 0 : q->forks ? q->req->n : 1;
    p->runs[p->n_runs++] = (struct plan_run){(uint32_t)q->slot, rows, begin, draws};
    p->n_rows += rows;
    p->n_draws += draws;
    p->pairs += budget_pairs(begin, rows);
    table_fill(&q->table, begin, begin + rows);
}

/* A generation that goes on has exactly its last token to compute, which may be on its way. */
static bool is_decode(const struct seq *q, uint64_t *begin)
{
    uint64_t end, n = seq_planned(q);
    return table_next_absent(&q->table, n, begin, &end) && *begin + 1 == n && n > q->n_prompt;
}

static void plan_decodes(struct sched *s)
{
    for (uint32_t i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[i];
        uint64_t at;
        if (seq_paused(q) || !is_decode(q, &at))
            continue;
        if (!ensure_blocks(s, q, at, seq_planned(q)))
            break; /* q was the last one left */
        add_run(s, q, at, 1);
        s->plan.n_decode++;
    }
}

/* Let waiting sequences in while they fit. */
static void admit(struct sched *s)
{
    while (s->n_waiting > 0) {
        struct seq *q = s->waiting[0];
        uint32_t slots = 1 + choices_to_come(q);
        if (q->n_ahead > 0)
            return; /* preempted after its draw was queued: that comes first */
        if (s->n_running + s->slots_promised + slots > s->limits.max_seqs)
            return;
        kvcache_match(s->kv, q);
        uint32_t spare = s->n_running; /* each running sequence may want one more block soon */
        if (kvcache_missing(s->kv, q, q->n_known) + spare > kvcache_available(s->kv) ||
            kvcache_extend(s->kv, q, q->n_known) != 0) {
            kvcache_release(s->kv, q);
            return;
        }
        s->kv->others = count_others(s, q);
        kvcache_load(s->kv, q);
        leave_queue(s, q);
        s->slots_promised += slots - 1;
        enter_slot(s, q);
    }
}

/* Running sequences with prefill work, those with least left first; *oldest is the first of them in queue order. */
static uint32_t collect_prefills(struct sched *s, struct seq **oldest)
{
    uint32_t n = 0;
    *oldest = NULL;
    for (uint32_t i = 0; i < s->n_running; i++) {
        struct seq *q = s->running[i];
        uint64_t at;
        if (seq_paused(q) || is_decode(q, &at) || absent_rows(q) == 0)
            continue;
        if (!*oldest)
            *oldest = q;
        uint32_t j = n++;
        for (; j > 0 && absent_rows(s->prefill[j - 1]) > absent_rows(q); j--)
            s->prefill[j] = s->prefill[j - 1];
        s->prefill[j] = q;
    }
    return n;
}

static uint64_t least_of(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

struct share {                      /* of a step, for one sequence */
    uint32_t rows, most_rows, runs; /* most_rows: for the oldest, whatever its share is */
    double ns;
    bool oldest;
};

/* Rows of q within its share: its next absent run, and those behind it. A hole is a block, and a step of so few rows
 * costs nearly as much as one of many; each layer has written the KV of all rows before it reads any. */
static uint32_t plan_prefill(struct sched *s, struct seq *q, struct share *h)
{
    uint32_t all = 0;
    for (uint64_t begin, end; h->runs > 0 && table_next_absent(&q->table, q->n_known, &begin, &end); h->runs--) {
        uint32_t most = (uint32_t)least_of(end - begin, h->rows - least_of(all, h->rows));
        uint32_t rows = budget_rows(&s->budget, begin, most, h->ns);
        uint32_t floor = (uint32_t)least_of(least_of(end - begin, h->most_rows), SCHED_MIN_CHUNK);
        if (rows < floor)
            rows = h->oldest && all == 0 ? floor : 0;
        if (rows == 0)
            break;
        h->ns -= budget_cost(&s->budget, begin, rows);
        add_run(s, q, begin, rows);
        all += rows;
        if (begin + rows < end)
            break;
    }
    return all;
}

static void plan_prefills(struct sched *s)
{
    struct seq *oldest;
    uint32_t n = collect_prefills(s, &oldest), rows_left = s->limits.max_rows - s->plan.n_rows;
    double left = s->limits.step_ns - budget_predict(&s->budget, s->plan.n_rows, s->plan.pairs);
    for (uint32_t i = 0; i < n; i++) {
        struct share h = {.rows = (rows_left + n - i - 1) / (n - i),
                          .most_rows = rows_left,
                          .runs = s->limits.max_seqs - s->plan.n_runs - (n - i - 1), /* each has one */
                          .ns = left / (n - i),
                          .oldest = s->prefill[i] == oldest};
        double ns = h.ns;
        rows_left -= plan_prefill(s, s->prefill[i], &h);
        left -= ns - h.ns;
    }
}

const struct plan *sched_step(struct sched *s, uint64_t number)
{
    struct plan *p = &s->plan;
    p->step = number;
    p->n_runs = p->n_copies = p->n_rows = p->n_draws = p->n_decode = 0;
    p->pairs = 0;
    plan_decodes(s);
    admit(s);
    plan_prefills(s);
    p->predicted_ns = (uint64_t)budget_predict(&s->budget, p->n_rows, p->pairs);
    return p->n_runs ? p : NULL;
}

void sched_check(const struct sched *s)
{
    uint64_t tokens = 0;
    uint32_t promised = 0, in_slots = 0;
    for (size_t i = 0; i < s->n_waiting; i++) {
        assert(s->waiting[i]->state == SEQ_WAITING && s->waiting[i]->table.n == 0);
        assert(i == 0 || seq_compare(s->waiting[i - 1], s->waiting[i]) < 0);
        tokens += s->waiting[i]->n_known;
    }
    for (uint32_t i = 0; i < s->n_running; i++) {
        assert(s->running[i]->state == SEQ_RUNNING && s->slots[s->running[i]->slot] == s->running[i]);
        assert(i == 0 || seq_compare(s->running[i - 1], s->running[i]) < 0);
        promised += choices_to_come(s->running[i]);
    }
    for (uint32_t i = 0; i < s->limits.max_seqs; i++)
        in_slots += s->slots[i] != NULL;
    assert(in_slots == s->n_running && promised == s->slots_promised && tokens == s->waiting_tokens);
    assert(s->n_running + s->slots_promised <= s->limits.max_seqs);
    kvcache_check(s->kv, s->slots, s->limits.max_seqs);
}
