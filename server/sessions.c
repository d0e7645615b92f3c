/* sessions - see sessions.h. */
#include "server/sessions.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 4096 /* chains of a few, with as many sessions as one owner may have */

int sessions_init(struct sessions_table *t, uint32_t max, const uint64_t sip[2])
{
    *t = (struct sessions_table){.limits.max = max, .n_buckets = BUCKETS, .sip = {sip[0], sip[1]}};
    t->buckets = calloc(BUCKETS, sizeof(struct session *));
    return t->buckets ? 0 : -ENOMEM;
}

void sessions_fini(struct sessions_table *t)
{
    for (struct session_owner *o = t->owners, *next; o; o = next) {
        next = o->next;
        for (struct session *s = o->newest, *older; s; s = older) {
            older = s->older;
            free(s);
        }
        free(o);
    }
    idmap_fini(&t->by_id);
    idmap_fini(&t->owner_of);
    free(t->buckets);
    memset(t, 0, sizeof *t);
}

/* -- look up */

static struct session **bucket_of(const struct sessions_table *t, const struct hash_key *owner, const char *name)
{
    uint64_t key[2];
    memcpy(key, owner->b, sizeof key);
    key[0] ^= t->sip[0];
    key[1] ^= t->sip[1];
    return &t->buckets[hash_sip(name, strlen(name), key) % t->n_buckets];
}

struct session *sessions_find(const struct sessions_table *t, const struct hash_key *owner, const char *name)
{
    for (struct session *s = *bucket_of(t, owner, name); s; s = s->chain)
        if (strcmp(s->name, name) == 0 && hash_key_equal(&s->owner->key, owner))
            return s;
    return NULL;
}

struct session *sessions_by_id(const struct sessions_table *t, uint64_t id)
{
    return id ? idmap_get(&t->by_id, id) : NULL;
}

/* The owner, or NULL; *at: where it is, or would be, in the map. */
static struct session_owner *find_owner(const struct sessions_table *t, const struct hash_key *key, uint64_t *at)
{
    struct session_owner *o;
    memcpy(at, key->b, sizeof *at);
    while ((o = idmap_get(&t->owner_of, *at)) && !hash_key_equal(&o->key, key))
        ++*at;
    return o;
}

struct session_owner *sessions_of(const struct sessions_table *t, const struct hash_key *owner)
{
    uint64_t at;
    struct session_owner *o = find_owner(t, owner, &at);
    return o && o->n ? o : NULL;
}

/* Owners stay: there are no more of them than API keys. */
static struct session_owner *make_owner(struct sessions_table *t, const struct hash_key *key)
{
    uint64_t at;
    struct session_owner *o = find_owner(t, key, &at);
    if (o)
        return o;
    o = calloc(1, sizeof *o);
    if (!o || idmap_put(&t->owner_of, at, o) != 0) {
        free(o);
        return NULL;
    }
    o->key = *key;
    o->next = t->owners;
    t->owners = o;
    return o;
}

/* -- the list of an owner */

static void unlink_session(struct session *s)
{
    struct session_owner *o = s->owner;
    *(s->newer ? &s->newer->older : &o->newest) = s->older;
    *(s->older ? &s->older->newer : &o->oldest) = s->newer;
}

static void link_newest(struct session *s)
{
    struct session_owner *o = s->owner;
    s->newer = NULL;
    s->older = o->newest;
    *(o->newest ? &o->newest->newer : &o->oldest) = s;
    o->newest = s;
}

/* Room for one more of o: the one unused longest goes. False: all are in use. */
static bool make_room(struct sessions_table *t, struct session_owner *o, void (*gone)(void *ctx, struct session *s),
                      void *ctx)
{
    struct session *s = o->oldest;
    if (o->n < t->limits.max)
        return true;
    while (s && (s->n_running || s->n_parking))
        s = s->newer;
    if (!s)
        return false;
    if (gone)
        gone(ctx, s);
    sessions_drop(t, s);
    return true;
}

struct session *sessions_add(struct sessions_table *t, const struct hash_key *owner, const char *name,
                             const struct session_wish *wish, void (*gone)(void *ctx, struct session *s), void *ctx)
{
    assert(strlen(name) <= SESSION_NAME_MAX);
    struct session_owner *o = make_owner(t, owner);
    struct session *s = o && make_room(t, o, gone, ctx) ? calloc(1, sizeof *s) : NULL;
    if (!s || idmap_put(&t->by_id, t->last_id + 1, s) != 0) {
        free(s);
        return NULL;
    }
    struct session **bucket = bucket_of(t, owner, name);
    s->id = ++t->last_id;
    s->owner = o;
    s->wish = *wish;
    if (!s->wish.origin) /* the process may not be the first that this file sees */
        s->wish.origin = s->id ^ (uint64_t)wish->created_s << 24;
    strcpy(s->name, name);
    s->chain = *bucket;
    *bucket = s;
    link_newest(s);
    o->n++;
    t->n++;
    t->in_state[session_state(s)]++;
    return s;
}

static void set_kept(struct sessions_table *t, struct session *s, int tier, bool kept)
{
    uint32_t blocks = kept ? s->leaf.n_blocks : 0;
    s->owner->kept_blocks[tier] += blocks - (uint64_t)s->kept_blocks[tier];
    t->kept_blocks[tier] += blocks - (uint64_t)s->kept_blocks[tier];
    s->kept_blocks[tier] = blocks;
    s->kept[tier] = kept;
}

void sessions_drop(struct sessions_table *t, struct session *s)
{
    struct session **at = bucket_of(t, &s->owner->key, s->name);
    while (*at != s)
        at = &(*at)->chain;
    *at = s->chain;
    for (int tier = 0; tier < 3; tier++)
        set_kept(t, s, tier, false);
    unlink_session(s);
    t->in_state[session_state(s)]--;
    s->owner->n--;
    t->n--;
    idmap_remove(&t->by_id, s->id);
    free(s);
}

/* -- states */

enum session_state session_state(const struct session *s)
{
    return s->n_running        ? SESSION_ACTIVE
           : s->n_parking      ? SESSION_SUSPENDING
           : s->wish.suspended ? SESSION_SUSPENDED
                               : SESSION_IDLE;
}

void sessions_count(struct sessions_table *t, struct session *s, int running, int parking)
{
    assert((int64_t)s->n_running + running >= 0 && (int64_t)s->n_parking + parking >= 0);
    t->in_state[session_state(s)]--;
    s->n_running += (uint32_t)running;
    s->n_parking += (uint32_t)parking;
    t->in_state[session_state(s)]++;
}

void sessions_set_suspended(struct sessions_table *t, struct session *s, bool suspended)
{
    t->in_state[session_state(s)]--;
    s->wish.suspended = suspended;
    t->in_state[session_state(s)]++;
}

void sessions_used(struct sessions_table *t, struct session *s, int64_t now_s)
{
    (void)t;
    s->wish.used_s = now_s;
    unlink_session(s);
    link_newest(s);
}

/* -- who is kept */

static bool fits(const struct sessions_table *t, const struct session *s, int tier, const uint64_t own[3],
                 uint64_t others)
{
    uint64_t blocks = own[tier] + s->leaf.n_blocks;
    return blocks <= t->limits.own[tier] && blocks + others <= t->limits.all[tier];
}

void sessions_grant(struct sessions_table *t, struct session_owner *o, int64_t now_s,
                    void (*changed)(void *ctx, struct session *s), void *ctx)
{
    uint64_t own[3] = {0}, others[3];
    for (int tier = 0; tier < 3; tier++)
        others[tier] = t->kept_blocks[tier] - o->kept_blocks[tier];
    for (int p = SESSION_HIGH; p >= SESSION_LOW; p--)
        for (struct session *s = o->newest; s; s = s->older) {
            bool wanted = p > SESSION_LOW && s->leaf.n_blocks && now_s < s->wish.used_s + s->wish.ttl_s, news = false;
            if (s->wish.priority != p)
                continue;
            for (int tier = 1; tier < 3; tier++) {
                bool may = !(tier == 2 && s->wish.retention == SESSION_IN_MEMORY);
                bool kept = wanted && may && fits(t, s, tier, own, others[tier]);
                own[tier] += kept ? s->leaf.n_blocks : 0;
                news |= kept != s->kept[tier];
                set_kept(t, s, tier, kept);
            }
            if (news)
                changed(ctx, s);
        }
}

void sessions_check(const struct sessions_table *t)
{
    uint32_t n = 0, states[SESSION_STATES] = {0};
    uint64_t kept[3] = {0};
    for (const struct session_owner *o = t->owners; o; o = o->next) {
        uint32_t of_owner = 0;
        uint64_t own[3] = {0};
        for (const struct session *s = o->newest; s; s = s->older, of_owner++) {
            assert(s->owner == o && (s->older ? s->older->newer == s : o->oldest == s));
            assert(sessions_find(t, &o->key, s->name) == s && sessions_by_id(t, s->id) == s);
            states[session_state(s)]++;
            for (int tier = 0; tier < 3; tier++)
                own[tier] += s->kept_blocks[tier];
        }
        for (int tier = 0; tier < 3; tier++) {
            assert(own[tier] == o->kept_blocks[tier]);
            kept[tier] += own[tier];
        }
        assert(of_owner == o->n && o->n <= t->limits.max);
        n += of_owner;
    }
    assert(n == t->n && memcmp(states, t->in_state, sizeof states) == 0 &&
           memcmp(kept, t->kept_blocks, sizeof kept) == 0);
}
