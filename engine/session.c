/* session - see session.h. */
#include "engine/session.h"

#include "engine/base/sys.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum stage {
    STAGE_PARK,  /* blocks are on their way down */
    STAGE_FLUSH, /* all are there: make it durable */
    STAGE_COUNT, /* where is everything? */
    STAGE_KEEP,
    STAGE_SAID,  /* the answer is due */
    STAGE_BRING, /* answered; blocks come up when nobody waits */
    STAGE_OVER
};

struct session_question {
    struct session_question *next;
    uint64_t id;
    enum stage stage;
    struct engine_question q;
    struct engine_whereabouts says;
    struct hash_key root, *keys; /* keys[leaf.n_blocks]: all zeros where none is known */
    struct kvcache_cursor at;
    uint64_t until_ns;
    bool brought; /* its prefetch was started */
};

int sessions_open(struct sessions *s, struct kvcache *kv)
{
    *s = (struct sessions){.kv = kv};
    s->questions = calloc(SESSION_QUESTIONS, sizeof *s->questions);
    if (!s->questions)
        return -ENOMEM;
    for (uint32_t i = SESSION_QUESTIONS; i-- > 0;) {
        s->questions[i].next = s->unused;
        s->unused = &s->questions[i];
    }
    return 0;
}

/* -- chains */

static void forget_chain(struct sessions *s, struct session_chain *c)
{
    *(c->older ? &c->older->newer : &s->oldest) = c->newer;
    *(c->newer ? &c->newer->older : &s->newest) = c->older;
    idmap_remove(&s->by_request, c->request);
    s->n_keys -= c->n;
    free(c);
}

static void remember_chain(struct sessions *s, uint64_t request, const struct hash_key *keys, uint32_t n)
{
    struct session_chain *c = n <= SESSION_KEYS ? malloc(sizeof *c + n * sizeof *keys) : NULL;
    if (!c || idmap_put(&s->by_request, request, c) != 0) { /* it can be walked */
        free(c);
        return;
    }
    *c = (struct session_chain){.request = request, .older = s->newest, .n = n};
    memcpy(c->keys, keys, n * sizeof *keys);
    *(s->newest ? &s->newest->newer : &s->oldest) = c;
    s->newest = c;
    s->n_keys += n;
    while (s->n_keys > SESSION_KEYS)
        forget_chain(s, s->oldest);
}

int64_t session_rung_depth(uint32_t n_blocks, uint32_t rung)
{
    return (int64_t)n_blocks - 1 - (rung ? (int64_t)1 << (rung - 1) : 0);
}

void session_leaf(const struct hash_key *keys, uint32_t n, struct engine_leaf *out)
{
    memset(out->rungs, 0, sizeof out->rungs);
    out->n_blocks = n;
    for (uint32_t r = 0; r < ENGINE_RUNGS && session_rung_depth(n, r) >= 0; r++)
        out->rungs[r] = keys[session_rung_depth(n, r)];
}

void sessions_note(struct sessions *s, struct seq *q)
{
    struct engine_leaf *leaf = &q->req->leaf;
    uint32_t n = q->n_published;
    *leaf = (struct engine_leaf){.n_blocks = 0};
    if (!s->kv->enabled || q->choice != 0 || n < q->n_prompt / s->kv->block_tokens)
        return;
    leaf->request = q->req->id;
    leaf->n_tokens = q->n_known;
    assert(q->n_keys >= n);
    session_leaf(q->keys, n, leaf);
    if (n > 0 && !idmap_get(&s->by_request, q->req->id))
        remember_chain(s, q->req->id, q->keys, n);
}

/* Keys of blocks down from `depth`, whose key is in keys, to the first whose parent is not known; its depth. */
static uint32_t walk_up(const struct kvcache *kv, const struct hash_key *root, struct hash_key *keys, uint32_t depth)
{
    while (depth > 0 && kvcache_parent(kv, root, &keys[depth], depth, &keys[depth - 1]))
        depth--;
    return depth;
}

/* The question's keys, remembered or walked. 0 or -ENOMEM. */
static int find_keys(struct sessions *s, struct session_question *w)
{
    const struct engine_leaf *leaf = &w->q.leaf;
    const struct session_chain *c = leaf->request ? idmap_get(&s->by_request, leaf->request) : NULL;
    w->keys = calloc((size_t)leaf->n_blocks + 1, sizeof *w->keys);
    if (!w->keys)
        return -ENOMEM;
    if (c && c->n == leaf->n_blocks && hash_key_equal(&c->keys[c->n - 1], &leaf->rungs[0])) {
        memcpy(w->keys, c->keys, c->n * sizeof *c->keys);
        return 0;
    }
    int64_t known = leaf->n_blocks; /* from here on up to the end it was tried */
    for (uint32_t r = 0; r < ENGINE_RUNGS; r++) {
        int64_t depth = session_rung_depth(leaf->n_blocks, r);
        if (depth < 0 || depth >= known)
            continue;
        w->keys[depth] = leaf->rungs[r];
        known = walk_up(s->kv, &w->root, w->keys, (uint32_t)depth);
    }
    return 0;
}

/* -- questions */

static void begin_scan(struct session_question *w, enum stage stage)
{
    w->stage = stage;
    w->at = (struct kvcache_cursor){.root = &w->root, .keys = w->keys, .n = w->q.leaf.n_blocks};
    memset(w->says.in, 0, sizeof w->says.in);
    w->says.missing = 0;
    w->says.predict_us = 0;
}

static void say(struct session_question *w, enum engine_answer answer)
{
    w->says.answer = answer;
    w->stage = STAGE_SAID;
}

/* Can it be parked? If not, why. */
static enum engine_answer may_park(const struct sessions *s, struct session_question *w)
{
    struct tiers_stats st;
    w->says.parked_on = kvcache_lowest(s->kv);
    if (w->says.parked_on == TIER_HBM)
        return ENGINE_NO_TIER;
    tiers_get_stats(s->kv->tiers, &st);
    uint64_t slots = w->says.parked_on == TIER_NVME ? st.nvme_slots : st.dram_slots;
    return w->q.leaf.n_blocks <= slots ? ENGINE_ANSWERED : ENGINE_NO_ROOM;
}

static void begin(struct sessions *s, struct session_question *w)
{
    enum engine_answer may = ENGINE_ANSWERED;
    if (find_keys(s, w) != 0) {
        say(w, ENGINE_NO_MEMORY);
        w->stage = w->q.verb == ENGINE_KEEP ? STAGE_OVER : STAGE_SAID;
        return;
    }
    w->until_ns = sys.now_ns() + ENGINE_PARK_S * 1000000000ull;
    switch (w->q.verb) {
    case ENGINE_PARK:
        may = may_park(s, w);
        if (may == ENGINE_ANSWERED)
            begin_scan(w, STAGE_PARK);
        else
            say(w, may);
        break;
    case ENGINE_KEEP:
        begin_scan(w, STAGE_KEEP);
        break;
    default:
        begin_scan(w, STAGE_COUNT);
    }
}

int sessions_ask(struct sessions *s, uint64_t id, const struct engine_question *q, const struct hash_key *root)
{
    struct session_question *w = s->unused;
    if (!w)
        return -EAGAIN;
    s->unused = w->next;
    *w = (struct session_question){.id = id, .q = *q, .root = *root};
    begin(s, w);
    *(s->last ? &s->last->next : &s->first) = w;
    s->last = w;
    return 0;
}

/* It is over; `before` stands in front of it, or NULL. */
static void drop_question(struct sessions *s, struct session_question *w, struct session_question *before)
{
    *(before ? &before->next : &s->first) = w->next;
    if (s->last == w)
        s->last = before;
    free(w->keys);
    w->keys = NULL;
    w->next = s->unused;
    s->unused = w;
}

void sessions_close(struct sessions *s)
{
    while (s->first)
        drop_question(s, s->first, NULL);
    while (s->oldest)
        forget_chain(s, s->oldest);
    idmap_fini(&s->by_request);
    free(s->questions);
    s->questions = NULL;
}

bool sessions_busy(const struct sessions *s)
{
    return s->first != NULL;
}

/* -- one turn of one question; each returns whether it got anywhere */

/* The blocks in order: from the first that is not there yet, a window of them is under way. They are kept meanwhile, so
 * that none makes room for another. */
static bool park(struct sessions *s, struct session_question *w)
{
    struct kvcache_cursor ahead = w->at, done = w->at;
    bool unbroken = true, moved = false, room = true;
    for (uint32_t i = 0; room && i < SESSION_WINDOW && kvcache_next(s->kv, &ahead); i++) {
        int ret = kvcache_park(s->kv, &ahead);
        kvcache_keep(s->kv, &ahead, (enum tier_id)w->says.parked_on, w->until_ns / 1000);
        room = ret != -EAGAIN;
        unbroken &= ret == 1 || ret == -ENOENT;
        if (unbroken) {
            done = ahead;
            moved = true;
        }
    }
    w->at = done;
    if (w->at.next == w->at.n)
        w->stage = w->says.parked_on == TIER_NVME ? STAGE_FLUSH : STAGE_COUNT;
    if (w->stage == STAGE_COUNT)
        begin_scan(w, STAGE_COUNT);
    return moved;
}

static bool flush(struct sessions *s, struct session_question *w)
{
    if (!tiers_flush(s->kv->tiers))
        return false;
    begin_scan(w, STAGE_COUNT);
    return true;
}

static bool count(struct sessions *s, struct session_question *w)
{
    struct kvcache_cursor *at = &w->at;
    uint64_t ns = 0;
    for (uint32_t i = 0; i < SESSION_WINDOW && kvcache_next(s->kv, at); i++) {
        for (int t = 0; t < TIER_COUNT; t++)
            w->says.in[t] += at->where >> t & 1;
        w->says.missing += at->where == 0;
        ns += kvcache_up_ns(s->kv, at->where);
    }
    w->says.predict_us += ns / 1000;
    if (at->next < at->n)
        return true;
    if (w->says.predict_us == 0 && w->says.in[TIER_HBM] + w->says.missing < at->n)
        w->says.predict_us = 1; /* 0 says that it is there */
    say(w, ENGINE_ANSWERED);
    return true;
}

static bool keep(struct sessions *s, struct session_question *w)
{
    uint64_t now = sys.now_ns() / 1000;
    for (uint32_t i = 0; i < SESSION_WINDOW && kvcache_next(s->kv, &w->at); i++)
        for (int t = TIER_DRAM; t < TIER_COUNT; t++)
            kvcache_keep(s->kv, &w->at, t, w->q.keep_us[t] ? now + w->q.keep_us[t] : 0);
    if (w->at.next == w->at.n)
        w->stage = STAGE_OVER;
    return true;
}

/* Up they come while nobody waits; who does has the room at once, and they come again later. */
static bool bring(struct sessions *s, struct session_question *w, bool idle)
{
    if (w->brought) {
        w->brought = kvcache_prefetching(s->kv, !idle);
        if (!w->brought && idle)
            w->stage = STAGE_OVER;
        return !w->brought;
    }
    int ret = idle ? kvcache_prefetch(s->kv, &w->root, w->keys, w->q.leaf.n_blocks) : -EBUSY;
    w->brought = ret == 0;
    if ((ret && ret != -EBUSY) || (ret && sys.now_ns() > w->until_ns))
        w->stage = STAGE_OVER;
    return ret != -EBUSY;
}

static bool turn(struct sessions *s, struct session_question *w, bool idle)
{
    bool down = w->stage == STAGE_PARK || w->stage == STAGE_FLUSH;
    if (down && sys.now_ns() > w->until_ns) {
        say(w, ENGINE_LATE);
        return true;
    }
    switch (w->stage) {
    case STAGE_PARK:
        return park(s, w);
    case STAGE_FLUSH:
        return flush(s, w);
    case STAGE_COUNT:
        return count(s, w);
    case STAGE_KEEP:
        return keep(s, w);
    case STAGE_BRING:
        return bring(s, w, idle);
    default:
        return false;
    }
}

bool sessions_turn(struct sessions *s, bool idle)
{
    bool any = false;
    for (struct session_question *w = s->first, *next, *before = NULL; w; w = next) {
        any |= turn(s, w, idle);
        next = w->next;
        if (w->stage == STAGE_OVER)
            drop_question(s, w, before);
        else
            before = w;
    }
    return any;
}

uint64_t sessions_answer(const struct sessions *s, struct engine_whereabouts *out)
{
    for (const struct session_question *w = s->first; w; w = w->next)
        if (w->stage == STAGE_SAID) {
            *out = w->says;
            return w->id;
        }
    return 0;
}

void sessions_answered(struct sessions *s, uint64_t id)
{
    for (struct session_question *w = s->first; w; w = w->next)
        if (w->id == id && w->stage == STAGE_SAID) {
            bool up = w->q.verb == ENGINE_BRING && w->says.answer == ENGINE_ANSWERED && w->says.predict_us;
            w->stage = up ? STAGE_BRING : STAGE_OVER;
            return;
        }
}
