/* move - what is under way between the tiers: loads, stores, reads and writes. See tiers.h and tiers_int.h.
 *
 * A load waits for its content to be in DRAM (a read from NVMe if it is not) and for the step that still may read its
 * pool block; then it is copied up and its seal compared. It may be given up only while it waits: nothing has been
 * written to the pool block by then. The read goes on by itself and leaves a copy in DRAM.
 */
#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/kv/tiers_int.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STOP_NS       1000000000u  /* writes pause so long after a failure, doubled with each that follows, */
#define STOP_DOUBLE   6            /* but at most so often */
#define COPY_PATIENCE 10000000000u /* ns beyond its deadline that a load waits for its copy into the pool */
#define SLOWER        4            /* times that a drive may be slower than was thought before what it reads is late */
#define SMOOTH        0.1
#define SPILL_ROOM    2   /* half of DRAM is kept free, or cheap to free, as far as the budget goes */
#define BURST         288 /* parts of a day whose budget may be saved up: 5 minutes */

int moves_open(struct tiers *t)
{
    t->jobs = calloc(MAX_JOBS, sizeof *t->jobs);
    t->stores = calloc(TIERS_STORES, sizeof *t->stores);
    t->loads = calloc(TIERS_LOADS, sizeof *t->loads);
    t->done = calloc(TIERS_LOADS + TIERS_STORES, sizeof *t->done);
    if (!t->jobs || !t->stores || !t->loads || !t->done)
        return -ENOMEM;
    for (int i = 0; i < MAX_JOBS; i++)
        t->jobs[i].next = i + 1 < MAX_JOBS ? &t->jobs[i + 1] : NULL;
    for (int i = 0; i < TIERS_STORES; i++)
        t->stores[i].next = i + 1 < TIERS_STORES ? &t->stores[i + 1] : NULL;
    for (int i = 0; i < TIERS_LOADS; i++)
        t->loads[i].next = i + 1 < TIERS_LOADS ? i + 1 : NONE;
    t->free_job = t->jobs;
    t->free_store = t->stores;
    t->first_load = t->last_load = NONE;
    t->copy_ns = (double)t->slot_bytes / 4.0; /* 4 GB/s, until it is measured */
    if (t->nvme) {
        uint64_t bps = tier_head(t->nvme)->read_bps;
        t->read_ns = (double)t->slot_bytes * 1e9 / (bps ? (double)bps : 1e9);
    }
    admit_init(&t->admit, t->o.write_bytes_per_day, t->o.write_bytes_per_day / BURST + t->slot_bytes);
    return 0;
}

void moves_close(struct tiers *t)
{
    free(t->jobs);
    free(t->stores);
    free(t->loads);
    free(t->done);
}

/* -- small things */

static struct job *take_job(struct job **list, int32_t item)
{
    struct job *j = *list;
    *list = j->next;
    memset(&j->move, 0, sizeof j->move);
    j->move.owner = j;
    j->item = item;
    return j;
}

static void give_job(struct job **list, struct job *j)
{
    j->next = *list;
    *list = j;
}

static void tell(struct tiers *t, const struct tiers_outcome *o)
{
    assert(t->n_done < TIERS_LOADS + TIERS_STORES);
    t->done[t->n_done++] = *o;
}

static void count(struct tiers_flow *f, const struct tier_move *m, uint64_t bytes)
{
    f->moves++;
    f->bytes += m->result ? 0 : bytes;
    f->ns += m->ns;
    f->failed += m->result != 0;
}

/* What NVMe has as well goes first, whatever else there is: losing it loses no computing. */
static float copied_seconds(const struct item *i)
{
    return i->worth.seconds / 1024;
}

static void smooth(double *to, double value)
{
    *to += SMOOTH * (value - *to);
}

/* -- stores: HBM -> DRAM */

int tiers_store(struct tiers *t, const struct kv_ident *who, int32_t block, const struct tiers_worth *w)
{
    struct item *i = tiers_item(t, who);
    if (i && !i->bad) {
        tiers_use(t, who, w);
        return 0;
    }
    int32_t slot = i || !t->free_store ? NONE : tiers_take_dram(t);
    if (slot == NONE || !(i = tiers_add(t, &who->key, who->depth))) {
        if (slot != NONE)
            tier_dram_give(&t->dram, slot);
        t->stats.not_stored++;
        return -EAGAIN;
    }
    struct kv_entry e;
    entry_make(&e, who, t->o.block_tokens, t->o.format);
    i->worth = *w;
    i->used_us = sys.now_ns() / 1000;
    i->by_store = true;
    tiers_dram_fills(t, i, slot, &e);
    struct job *j = take_job(&t->free_store, tiers_id(t, i));
    j->block = block;
    j->move.op = TIER_READ;
    j->move.slot = block;
    j->move.mem = tier_dram_at(&t->dram, slot);
    if (tier_ops(t->gpu)->submit(t->gpu, &j->move) != 0) {
        give_job(&t->free_store, j);
        tiers_dram_failed(t, i);
        t->stats.not_stored++;
        return -EAGAIN;
    }
    t->n_stores++;
    return 1;
}

enum load_end { LOAD_CAME, LOAD_FAILED, LOAD_BAD };
static void end_load(struct tiers *t, struct load *l, enum load_end how);

/* What was to come to DRAM did not: nobody may find the content, and it goes when nobody holds it. */
static void copy_failed(struct tiers *t, struct item *i)
{
    if (i->load != NONE)
        end_load(t, &t->loads[i->load], LOAD_FAILED);
    tiers_dram_ready(t, i);
    tiers_retire(t, i);
}

static void store_came(struct tiers *t, struct job *j)
{
    struct item *i = &t->items[j->item];
    count(&t->stats.gpu[1], &j->move, t->o.block_bytes);
    tell(t, &(struct tiers_outcome){.block = j->block, .ok = j->move.result == 0, .from = TIER_HBM, .ns = j->move.ns});
    t->n_stores--;
    i->by_store = false;
    if (j->move.result == 0) {
        t->dram_entries[i->dram].seal = j->move.seal;
        tiers_dram_ready(t, i);
        if (i->bad)
            tiers_retire(t, i);
        else if (t->nvme && (i->parked || tiers_writes_at_once(t, i)))
            tiers_enqueue(t, i, i->parked);
    } else {
        copy_failed(t, i);
    }
    give_job(&t->free_store, j);
}

/* -- reads: NVMe -> DRAM */

static int start_read(struct tiers *t, struct item *i)
{
    assert(i->in_dram == COPY_NONE && i->in_nvme == COPY_READY);
    int32_t slot = t->free_job ? tiers_take_dram(t) : NONE;
    if (slot == NONE)
        return -EAGAIN;
    struct job *j = take_job(&t->free_job, tiers_id(t, i));
    j->move.op = TIER_READ;
    j->move.slot = i->nvme;
    j->move.mem = tier_dram_at(&t->dram, slot);
    int ret = tier_ops(t->nvme)->submit(t->nvme, &j->move);
    if (ret) {
        give_job(&t->free_job, j);
        tier_dram_give(&t->dram, slot);
        return ret;
    }
    tiers_pin_nvme(t, i);
    tiers_dram_fills(t, i, slot, tier_ops(t->nvme)->entry(t->nvme, i->nvme));
    t->n_reads++;
    return 0;
}

static void read_came(struct tiers *t, struct job *j)
{
    struct item *i = &t->items[j->item];
    count(&t->stats.nvme[0], &j->move, t->slot_bytes);
    t->n_reads--;
    int result = j->move.result;
    give_job(&t->free_job, j);
    tiers_unpin_nvme(t, i);
    if (result == 0) {
        tiers_dram_ready(t, i);
        evict_copied(t->in_dram, i->dram, copied_seconds(i));
        if (i->bad)
            tiers_retire(t, i);
        return;
    }
    log_warn("tier read", "tier=nvme slot=%d error=\"%s\" next=\"the block is computed again\"", i->nvme,
             strerror(-result));
    copy_failed(t, i);
}

int64_t tiers_fetch(struct tiers *t, const struct kv_ident *who)
{
    struct item *i = tiers_item(t, who);
    if (!i || i->bad)
        return -ENOENT;
    if (t->starved || t->n_fetched >= t->dram.n_slots / 2) /* the other half is for loads that somebody waits for */
        return -EAGAIN;
    if (i->in_dram == COPY_NONE && start_read(t, i) != 0)
        return -EAGAIN;
    tiers_pin(t, i);
    t->n_fetched++;
    return (int64_t)(i->generation & INT32_MAX) << 32 | tiers_id(t, i);
}

bool tiers_starved(const struct tiers *t)
{
    return t->starved;
}

void tiers_unfetch(struct tiers *t, int64_t ticket)
{
    struct item *i = &t->items[(uint32_t)ticket];
    assert(i->used && (i->generation & INT32_MAX) == (uint32_t)(ticket >> 32));
    t->n_fetched--;
    tiers_unpin(t, i);
}

/* -- writes: DRAM -> NVMe */

static void not_written(struct tiers *t, struct item *i, bool paid)
{
    if (!paid)
        return;
    admit_refund(&t->admit, (uint32_t)t->slot_bytes);
    evict_owes(t->in_dram, i->dram, i->worth.seconds);
}

/* What a write budget is spent on: what returns most likely (evict.h), when DRAM has little room left that costs
 * little, or when the budget can't be saved up any further. NULL: nothing now. */
static struct item *next_to_spill(struct tiers *t, uint64_t now)
{
    uint32_t cheap = t->dram.n_free + evict_n_copied(t->in_dram) + t->n_writes, bytes = (uint32_t)t->slot_bytes;
    if (t->o.write_bytes_per_day == 0 || admit_left(&t->admit, now / 1000) < bytes ||
        (cheap >= t->dram.n_slots / SPILL_ROOM && !admit_full(&t->admit, now / 1000)))
        return NULL;
    int32_t slot;
    while ((slot = evict_spill(t->in_dram, now / 1000)) >= 0) {
        struct item *i = &t->items[t->dram_item[slot]];
        /* what is not wanted there, or is on its way by wish, is not named again until somebody else uses it */
        if (!i->worth.in_memory && i->in_nvme == COPY_NONE && !i->bad && admit_take(&t->admit, bytes, now / 1000))
            return i;
    }
    return NULL;
}

/* The content that is written next, its slot taken and its bytes accounted; NULL: none now. */
static struct item *next_to_write(struct tiers *t, int32_t *slot, bool *paid)
{
    uint64_t now = sys.now_ns();
    int32_t at = t->to_park.first != NONE ? t->to_park.first : t->to_write.first;
    struct item *i = at != NONE ? &t->items[at] : next_to_spill(t, now);
    *paid = at == NONE && i;
    if (!i)
        return NULL;
    *slot = tiers_take_nvme(t, i);
    if (*slot != NONE)
        return i;
    not_written(t, i, *paid);
    t->writes_stop_until_ns = now + STOP_NS; /* all slots are held, or the disk is full */
    return NULL;
}

static bool start_write(struct tiers *t)
{
    int32_t slot;
    bool paid;
    struct item *i = t->free_job ? next_to_write(t, &slot, &paid) : NULL;
    if (!i)
        return false;
    struct job *j = take_job(&t->free_job, tiers_id(t, i));
    j->entry = t->dram_entries[i->dram];
    j->entry.generation = tiers_generation(t);
    j->move.op = TIER_WRITE;
    j->move.slot = slot;
    j->move.mem = tier_dram_at(&t->dram, i->dram);
    j->move.entry = &j->entry;
    if (tier_ops(t->nvme)->submit(t->nvme, &j->move) != 0) {
        give_job(&t->free_job, j);
        tier_ops(t->nvme)->give(t->nvme, slot);
        not_written(t, i, paid);
        return false;
    }
    tiers_dequeue(t, i);
    tiers_pin(t, i);
    i->nvme = slot;
    i->in_nvme = COPY_FILLING;
    t->n_writes++;
    return true;
}

static void write_came(struct tiers *t, struct job *j)
{
    struct item *i = &t->items[j->item];
    count(&t->stats.nvme[1], &j->move, t->slot_bytes);
    t->n_writes--;
    int result = j->move.result;
    give_job(&t->free_job, j);
    if (result == 0) {
        t->write_failures = 0;
        tiers_nvme_ready(t, i, tiers_parent(t, tiers_entry(t, i)));
        evict_copied(t->in_dram, i->dram, copied_seconds(i));
    } else {
        uint32_t n = t->write_failures < STOP_DOUBLE ? t->write_failures : STOP_DOUBLE;
        uint64_t pause = (uint64_t)STOP_NS << n;
        t->write_failures++;
        t->writes_stop_until_ns = sys.now_ns() + pause;
        log_warn("tier write", "tier=nvme slot=%d error=\"%s\" next=\"no writes for %llu s\"", i->nvme,
                 strerror(-result), (unsigned long long)(pause / 1000000000u));
        tier_ops(t->nvme)->forget(t->nvme, i->nvme);
        tier_ops(t->nvme)->give(t->nvme, i->nvme);
        i->nvme = NONE;
        i->in_nvme = COPY_NONE;
        evict_owes(t->in_dram, i->dram, i->worth.seconds);
    }
    tiers_unpin(t, i);
}

/* -- loads: to HBM */

static void leave_list(struct tiers *t, struct load *l)
{
    if (l->prev != NONE)
        t->loads[l->prev].next = l->next;
    else
        t->first_load = l->next;
    if (l->next != NONE)
        t->loads[l->next].prev = l->prev;
    else
        t->last_load = l->prev;
}

static void enter_list(struct tiers *t, struct load *l)
{
    int32_t id = (int32_t)(l - t->loads);
    l->prev = t->last_load;
    l->next = NONE;
    if (t->last_load != NONE)
        t->loads[t->last_load].next = id;
    else
        t->first_load = id;
    t->last_load = id;
}

int tiers_load(struct tiers *t, const struct kv_ident *who, int32_t block, uint64_t after, uint64_t due_ns)
{
    struct item *i = tiers_item(t, who);
    if (!i || i->bad || (i->in_dram != COPY_READY && !i->by_store && i->in_nvme != COPY_READY))
        return -ENOENT;
    if (t->free_load == NONE)
        return -EAGAIN;
    assert(i->load == NONE); /* tiers_loading tells */
    struct load *l = &t->loads[t->free_load];
    uint64_t now = sys.now_ns();
    i->load = t->free_load;
    t->free_load = l->next;
    l->state = LOAD_WAITS;
    l->from = i->in_dram == COPY_READY || i->by_store ? TIER_DRAM : TIER_NVME;
    l->item = tiers_id(t, i);
    l->block = block;
    l->after = after;
    l->start_ns = now;
    t->n_loads++;
    t->n_wait_nvme += l->from == TIER_NVME;
    l->due_ns = due_ns ? due_ns : now + t->o.deadline_ns + (uint64_t)(2 * t->read_ns * (t->n_wait_nvme + 1));
    l->turn = l->from == TIER_NVME && !due_ns ? t->n_wait_nvme + 1 : 0;
    l->read_ns = t->read_ns;
    enter_list(t, l);
    tiers_pin(t, i);
    if (l->from == TIER_NVME)
        tiers_pin_nvme(t, i);
    if (i->in_dram == COPY_NONE)
        start_read(t, i); /* else a turn does, when there is room */
    return 0;
}

int32_t tiers_loading(const struct tiers *t, const struct kv_ident *who)
{
    const struct item *i = tiers_item(t, who);
    return i && i->load != NONE ? t->loads[i->load].block : NONE;
}

/* The outcome is told; what it held is let go. The item may be gone after it. */
static void end_load(struct tiers *t, struct load *l, enum load_end how)
{
    struct item *i = &t->items[l->item];
    bool ok = how == LOAD_CAME;
    tell(t, &(struct tiers_outcome){l->block, true, ok, how == LOAD_BAD, l->from, sys.now_ns() - l->start_ns});
    if (l->state == LOAD_WAITS)
        leave_list(t, l);
    t->stats.hit_blocks[l->from] += ok;
    t->n_loads--;
    t->n_wait_nvme -= l->from == TIER_NVME;
    l->state = LOAD_FREE;
    l->next = t->free_load;
    t->free_load = (int32_t)(l - t->loads);
    i->load = NONE;
    if (l->from == TIER_NVME)
        tiers_unpin_nvme(t, i);
    tiers_unpin(t, i);
}

/* May the load go on? False: the queue of copies is full. */
static bool push_load(struct tiers *t, struct load *l, bool *reads_full)
{
    struct item *i = &t->items[l->item];
    if (i->in_dram == COPY_NONE && !*reads_full)
        *reads_full = start_read(t, i) != 0;
    if (i->in_dram != COPY_READY || l->after > t->finished)
        return true;
    memset(&l->move, 0, sizeof l->move);
    l->move.owner = l;
    l->move.op = TIER_WRITE;
    l->move.slot = l->block;
    l->move.mem = tier_dram_at(&t->dram, i->dram);
    if (tier_ops(t->gpu)->submit(t->gpu, &l->move) != 0)
        return false;
    leave_list(t, l);
    l->state = LOAD_COPIES;
    return true;
}

/* When a load is late. What a drive was thought to read in a time, from a short probe, it may take longer for: then all
 * that wait for it would be given up one after the other, though they come. So the deadline follows the reads that
 * have come since, within bounds; a drive that stands still brings none. */
static uint64_t due_of(const struct tiers *t, const struct load *l)
{
    double most = SLOWER * l->read_ns, now = t->read_ns < most ? t->read_ns : most;
    return l->due_ns + (now > l->read_ns ? (uint64_t)(2 * (now - l->read_ns) * l->turn) : 0);
}

static void push_loads(struct tiers *t)
{
    uint64_t now = sys.now_ns();
    bool reads_full = false, copies_full = false;
    uint32_t n_without = 0; /* loads whose content has no place in DRAM */
    for (int32_t at = t->first_load, next; at != NONE; at = next) {
        struct load *l = &t->loads[at];
        struct item *i = &t->items[l->item];
        next = l->next;
        /* in DRAM it only waits for the copy up: longer, but not for ever (a device may refuse) */
        if (now >= due_of(t, l) + (i->in_dram == COPY_READY ? COPY_PATIENCE : 0)) {
            t->stats.late++;
            end_load(t, l, LOAD_FAILED);
        } else if (!copies_full) {
            copies_full = !push_load(t, l, &reads_full);
            n_without += i->in_dram == COPY_NONE;
        }
    }
    /* nor is anything under way that will free one */
    t->starved = reads_full && t->n_fetched > 0 && n_without == t->n_loads && !t->n_reads && !t->n_writes &&
                 !t->n_stores;
}

static void copy_came(struct tiers *t, struct load *l)
{
    struct item *i = &t->items[l->item];
    const struct seal *want = &t->dram_entries[i->dram].seal;
    count(&t->stats.gpu[0], &l->move, t->o.block_bytes);
    bool same = t->o.no_bytes || seal_equal(want, &l->move.seal);
    if (l->move.result == 0 && !same) {
        t->stats.verify_failed[l->from]++;
        i->bad = true;
        log_warn("tier verify", "tier=%s depth=%u next=\"the copy is retired, the block computed again\"",
                 l->from == TIER_NVME ? "nvme" : "dram", t->dram_entries[i->dram].depth);
    } else if (l->move.result == 0) {
        smooth(&t->copy_ns, (double)l->move.ns);
    }
    end_load(t, l, l->move.result ? LOAD_FAILED : same ? LOAD_CAME : LOAD_BAD);
}

/* -- once a turn */

/* Reads that one reap brings have come since those before, or since they were begun, whatever the moments at which they
 * are seen. */
static void learn_pace(struct tiers *t, const struct tier_move *m)
{
    uint64_t now = sys.now_ns(), since = UINT64_MAX;
    uint32_t n = 0;
    for (; m; m = m->next) {
        if (m->op != TIER_READ)
            continue;
        since = m->submitted_ns < since ? m->submitted_ns : since;
        n += m->result == 0;
    }
    if (since == UINT64_MAX)
        return;
    since = t->last_read_ns > since ? t->last_read_ns : since;
    t->last_read_ns = now;
    for (uint32_t i = 0; i < n; i++)
        smooth(&t->read_ns, (double)(now - since) / n);
}

static bool reap(struct tiers *t)
{
    bool any = false;
    for (struct tier_move *m = tier_ops(t->gpu)->reap(t->gpu), *next; m; m = next, any = true) {
        next = m->next;
        if (m->op == TIER_READ)
            store_came(t, m->owner);
        else
            copy_came(t, m->owner);
    }
    struct tier_move *came = t->nvme ? tier_ops(t->nvme)->reap(t->nvme) : NULL;
    learn_pace(t, came);
    for (struct tier_move *m = came, *next; m; m = next, any = true) {
        next = m->next;
        if (m->op == TIER_READ)
            read_came(t, m->owner);
        else
            write_came(t, m->owner);
    }
    return any;
}

bool tiers_turn(struct tiers *t, uint64_t finished)
{
    t->finished = finished;
    t->n_done = 0;
    bool any = reap(t);
    push_loads(t);
    any |= reap(t); /* copies of host memory are done at once */
    /* reads first: while one is under way, or waited for, nothing is written */
    if (t->nvme && t->n_reads == 0 && t->n_wait_nvme == 0 && sys.now_ns() >= t->writes_stop_until_ns)
        while (start_write(t))
            any = true;
    return any || t->n_done > 0;
}

bool tiers_busy(const struct tiers *t)
{
    bool writes = t->to_write.n + t->to_park.n > 0 && sys.now_ns() >= t->writes_stop_until_ns;
    return t->n_loads || t->n_stores || t->n_reads || t->n_writes || writes;
}

const struct tiers_outcome *tiers_done(const struct tiers *t, uint32_t *n)
{
    *n = t->n_done;
    return t->done;
}

struct tiers_pace tiers_get_pace(const struct tiers *t)
{
    return (struct tiers_pace){t->copy_ns, t->read_ns, t->read_ns * t->n_wait_nvme};
}

uint64_t tiers_load_ns(const struct tiers *t, uint32_t where)
{
    struct tiers_pace p = tiers_get_pace(t);
    return (uint64_t)(p.copy_ns + (where & 1u << TIER_DRAM ? 0 : p.read_ns + p.backlog_ns));
}
