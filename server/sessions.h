/* sessions - conversations by name: whose they are, where they ended, what is wished for them.
 *
 * A session belongs to the owner (API key) that first named it; others do not see it. It holds no KV: its leaf says
 * where the conversation's blocks are found (engine.h), so forking is copying the leaf.
 *
 * Budgets. Blocks of a session can be kept: caches give up others first. What is kept is bounded twice in each tier,
 * for an owner and for all together, and the rest of a tier is nobody's, so keeping starves no one; sessions_grant says
 * who is kept: of an owner those with high priority first, then those used last, each whole or not at all, until their
 * TTL is over. With low priority a session is never kept.
 *
 * An owner has at most `max` sessions: one more takes the place of the one unused longest. A table and two lists; look
 * up O(1), grant O(sessions of the owner). Loop thread; times are arguments.
 */
#ifndef HEARTH_SERVER_SESSIONS_H
#define HEARTH_SERVER_SESSIONS_H

#include "engine/base/idmap.h"
#include "engine/engine.h"

#define SESSION_NAME_MAX 256 /* bytes */
#define SESSION_TTL_MAX  (30 * 24 * 3600)

enum session_priority { SESSION_LOW, SESSION_NORMAL, SESSION_HIGH };
enum session_retention { SESSION_DEFAULT, SESSION_IN_MEMORY, SESSION_24H };
enum session_state { SESSION_IDLE, SESSION_ACTIVE, SESSION_SUSPENDING, SESSION_SUSPENDED, SESSION_STATES };

struct session_wish {          /* what is stored of a session besides its leaf and name */
    int64_t created_s, used_s; /* since 1970 */
    int64_t ttl_s;             /* since the last use */
    uint64_t origin;           /* the same for a session and its forks: they share blocks */
    uint8_t salt[32];          /* of the last request */
    uint8_t priority, retention, suspended, reserved[5];
};

struct session {
    uint64_t id; /* never 0, never used twice */
    struct session_owner *owner;
    char name[SESSION_NAME_MAX + 1];
    struct engine_leaf leaf; /* n_tokens 0: nothing was said yet */
    struct session_wish wish;
    uint32_t n_running, n_parking; /* requests; suspensions under way */
    bool kept[3];                  /* by enum tier_id */
    uint32_t kept_blocks[3];       /* that this counts for */
    struct session *newer, *older; /* of its owner, by last use */
    struct session *chain;         /* of its bucket */
};

struct session_owner {
    struct hash_key key;
    struct session *newest, *oldest;
    struct session_owner *next;
    uint32_t n;
    uint64_t kept_blocks[3];
};

struct session_limits {
    uint32_t max;            /* sessions of an owner */
    uint64_t own[3], all[3]; /* blocks kept in a tier, of one owner and of all */
};

struct sessions_table {
    struct session_limits limits;
    struct session **buckets;
    uint64_t sip[2];
    uint32_t n_buckets, n;
    struct idmap by_id, owner_of; /* the latter: first bytes of an owner's key */
    struct session_owner *owners;
    uint64_t last_id, kept_blocks[3];
    uint32_t in_state[SESSION_STATES];
};

/* 0 or -ENOMEM. */
int sessions_init(struct sessions_table *t, uint32_t max, const uint64_t sip[2]);
void sessions_fini(struct sessions_table *t); /* all zeros is fine */

struct session *sessions_find(const struct sessions_table *t, const struct hash_key *owner, const char *name);
struct session *sessions_by_id(const struct sessions_table *t, uint64_t id); /* NULL: it has been forgotten */
/* The owner's, NULL: has no session. */
struct session_owner *sessions_of(const struct sessions_table *t, const struct hash_key *owner);

/* A new one (the name is not there yet), the newest of its owner. NULL: no memory, or all of the owner's `max` are in
 * use. *gone: one that had to make room for it is told to the caller before it goes (may be NULL). */
struct session *sessions_add(struct sessions_table *t, const struct hash_key *owner, const char *name,
                             const struct session_wish *wish, void (*gone)(void *ctx, struct session *s), void *ctx);
void sessions_drop(struct sessions_table *t, struct session *s);

enum session_state session_state(const struct session *s);
/* Requests and suspensions begin (+1) and end (-1); used: it is the newest now. */
void sessions_count(struct sessions_table *t, struct session *s, int running, int parking);
void sessions_set_suspended(struct sessions_table *t, struct session *s, bool suspended);
void sessions_used(struct sessions_table *t, struct session *s, int64_t now_s);

/* Who of this owner is kept now. changed() hears of each session whose grant is not what it was. */
void sessions_grant(struct sessions_table *t, struct session_owner *o, int64_t now_s,
                    void (*changed)(void *ctx, struct session *s), void *ctx);

/* Abort on a broken invariant; O(n). */
void sessions_check(const struct sessions_table *t);

#endif
