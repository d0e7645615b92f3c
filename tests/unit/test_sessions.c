/* test_sessions - the table of names against a plain array that does the same slowly, who is kept within which bounds,
 * and the file: what was put is taken, and no damaged byte is. */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/base/sys.h"
#include "server/sessions.h"
#include "server/sessions_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_OWNERS 3
#define N_NAMES  40
#define MAX      12 /* sessions of an owner */

static uint64_t rng;

static uint32_t below(uint32_t n)
{
    return (uint32_t)(rng_next(&rng) % n);
}

static struct hash_key owner_key(uint32_t i)
{
    struct hash_key k = {{0}};
    k.b[20] = (uint8_t)i; /* the first bytes are the same: they share a place in the map */
    return k;
}

static void name_of(uint32_t i, char out[16])
{
    snprintf(out, 16, "name/%u", i);
}

static const uint64_t sip[2] = {1, 2};

/* -- the model: an array, ordered by use */

struct model {
    uint64_t id;
    uint32_t owner, name, n_blocks;
    int64_t used_s, ttl_s;
    int priority;
    bool in_memory, active;
} model[N_OWNERS * MAX];
static uint32_t n_model;

static struct model *model_find(uint32_t owner, uint32_t name)
{
    for (uint32_t i = 0; i < n_model; i++)
        if (model[i].owner == owner && model[i].name == name)
            return &model[i];
    return NULL;
}

static uint32_t model_count(uint32_t owner)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_model; i++)
        n += model[i].owner == owner;
    return n;
}

static void model_remove(struct model *m)
{
    memmove(m, m + 1, (size_t)(&model[n_model] - m - 1) * sizeof *m);
    n_model--;
}

static void model_use(struct model *m)
{
    struct model copy = *m;
    model_remove(m);
    model[n_model++] = copy; /* the last is the newest */
}

/* Who of owner is kept in a tier, by the rules written down in sessions.h. */
static void check_grants(const struct sessions_table *t, uint32_t owner, int64_t now)
{
    for (int tier = 1; tier < 3; tier++) {
        uint64_t own = 0, others = 0;
        for (uint32_t i = 0; i < N_OWNERS; i++) {
            struct hash_key k = owner_key(i);
            const struct session_owner *o = sessions_of(t, &k);
            others += o && i != owner ? o->kept_blocks[tier] : 0;
        }
        for (int p = SESSION_HIGH; p > SESSION_LOW; p--)
            for (uint32_t i = n_model; i-- > 0;) {
                const struct model *m = &model[i];
                if (m->owner != owner || m->priority != p)
                    continue;
                bool want = m->n_blocks && now < m->used_s + m->ttl_s && !(tier == 2 && m->in_memory);
                want = want && own + m->n_blocks <= t->limits.own[tier] &&
                       own + m->n_blocks + others <= t->limits.all[tier];
                own += want ? m->n_blocks : 0;
                ck_assert_int_eq(sessions_by_id(t, m->id)->kept[tier], want);
            }
        ck_assert(own <= t->limits.own[tier] && own + others <= t->limits.all[tier]);
    }
}

static uint64_t gone_id;

static void note_gone(void *ctx, struct session *s)
{
    (void)ctx;
    gone_id = s->id;
}

static void note_changed(void *ctx, struct session *s)
{
    (void)s;
    ++*(uint32_t *)ctx;
}

/* One more, in both; what makes room must be the owner's oldest that nobody uses. */
static void add(struct sessions_table *t, uint32_t owner, uint32_t name, int64_t now)
{
    struct session_wish w = {.created_s = now, .used_s = now, .ttl_s = below(50), .priority = (uint8_t)below(3)};
    struct hash_key k = owner_key(owner);
    struct model *oldest = NULL;
    char text[16];
    name_of(name, text);
    w.retention = below(4) == 0 ? SESSION_IN_MEMORY : SESSION_DEFAULT;
    for (uint32_t i = 0; i < n_model && !oldest; i++)
        if (model[i].owner == owner && !model[i].active)
            oldest = &model[i];
    bool full = model_count(owner) == MAX;
    struct session *s = sessions_add(t, &k, text, &w, note_gone, NULL);
    if (full && !oldest) {
        ck_assert_ptr_null(s);
        return;
    }
    ck_assert_ptr_nonnull(s);
    ck_assert_uint_eq(gone_id, full ? oldest->id : 0);
    if (full)
        model_remove(oldest);
    s->leaf.n_blocks = below(20);
    s->leaf.n_tokens = 64 * s->leaf.n_blocks + 1;
    model[n_model++] = (struct model){
        s->id, owner, name, s->leaf.n_blocks, now, w.ttl_s, w.priority, w.retention == SESSION_IN_MEMORY, false};
}

START_TEST(test_the_table_does_what_a_plain_array_does)
{
    struct sessions_table t;
    uint32_t changed = 0, kept = 0, made_room = 0;
    rng = unit_seed("table");
    ck_assert_int_eq(sessions_init(&t, MAX, sip), 0);
    t.limits.own[1] = 30;
    t.limits.own[2] = 60;
    t.limits.all[1] = 50;
    t.limits.all[2] = 100;
    for (int64_t now = 1; now < 20000; now++) {
        uint32_t owner = below(N_OWNERS), name = below(N_NAMES);
        struct hash_key k = owner_key(owner);
        struct model *m = model_find(owner, name);
        char text[16];
        gone_id = 0;
        name_of(name, text);
        struct session *s = sessions_find(&t, &k, text);
        ck_assert(m ? s && s->id == m->id : !s);
        switch (below(6)) {
        case 0:
        case 1:
            if (!m)
                add(&t, owner, name, now);
            made_room += gone_id != 0;
            break;
        case 2:
            if (m) {
                s->leaf.n_blocks = m->n_blocks = below(20);
                m->used_s = now;
                sessions_used(&t, s, now);
                model_use(m);
            }
            break;
        case 3:
            if (m && below(3) == 0) {
                sessions_drop(&t, s);
                model_remove(m);
            }
            break;
        case 4:
            if (m) {
                sessions_count(&t, s, m->active ? -1 : 1, 0);
                m->active = !m->active;
            }
            break;
        default:
            if (s)
                sessions_set_suspended(&t, s, below(2));
        }
        struct session_owner *o = sessions_of(&t, &k);
        ck_assert((o != NULL) == (model_count(owner) > 0));
        if (o) {
            sessions_grant(&t, o, now, note_changed, &changed);
            check_grants(&t, owner, now);
            kept += o->kept_blocks[1] > 0;
        }
        if (now % 64 == 0)
            sessions_check(&t);
    }
    printf("grants changed %u, turns with something kept %u, made room %u\n", changed, kept, made_room);
    ck_assert(changed > 2000 && kept > 5000 && made_room > 100);
    sessions_fini(&t);
}
END_TEST

/* -- the file */

static void fill(struct sessions_table *t)
{
    ck_assert_int_eq(sessions_init(t, 100, sip), 0);
    for (uint32_t i = 0; i < 60; i++) {
        struct hash_key k = owner_key(i % 3);
        struct session_wish w = {.created_s = i, .used_s = 2 * i, .ttl_s = 3 * i, .priority = i % 3};
        char name[SESSION_NAME_MAX + 1] = "";
        snprintf(name, sizeof name, "%u umlaut \xc3\xa4", i);
        if (i == 7)
            memset(name, 'x', SESSION_NAME_MAX); /* as long as may be */
        struct session *s = sessions_add(t, &k, name, &w, NULL, NULL);
        ck_assert_ptr_nonnull(s);
        s->leaf = (struct engine_leaf){.request = i + 1, .n_tokens = 100 * i, .n_blocks = i};
        s->leaf.rungs[i % ENGINE_RUNGS].b[3] = (uint8_t)i;
    }
}

static void expect_equal(const struct sessions_table *a, const struct sessions_table *b)
{
    ck_assert_uint_eq(a->n, b->n);
    for (const struct session_owner *o = a->owners; o; o = o->next)
        for (const struct session *s = o->newest, *u = sessions_of(b, &o->key)->newest; s; s = s->older, u = u->older) {
            struct engine_leaf leaf = s->leaf;
            leaf.request = 0; /* of an engine that is gone */
            ck_assert_str_eq(s->name, u->name);
            ck_assert_mem_eq(&s->wish, &u->wish, sizeof s->wish);
            ck_assert_mem_eq(&leaf, &u->leaf, sizeof leaf);
        }
}

START_TEST(test_what_was_put_is_taken_and_no_damaged_byte_is)
{
    struct sessions_table t, u;
    struct str bytes = {0};
    struct err e;
    uint32_t refused = 0, tries = 0;
    rng = unit_seed("bits");
    fill(&t);
    sessions_put(&t, &bytes);
    ck_assert_int_eq(sessions_init(&u, 100, sip), 0);
    ck_assert_int_eq(sessions_take(&u, bytes.data, bytes.len, &e), 0);
    expect_equal(&t, &u);
    sessions_check(&u);
    sessions_fini(&u);
    for (; tries < 2000; tries++) {
        size_t at = tries < 24 ? tries : below((uint32_t)bytes.len);
        ck_assert_int_eq(sessions_init(&u, 100, sip), 0);
        char was = bytes.data[at];
        bytes.data[at] ^= (char)(1 << below(8));
        refused += sessions_take(&u, bytes.data, bytes.len, &e) == -EBADMSG && u.n == 0;
        bytes.data[at] = was;
        sessions_fini(&u);
    }
    ck_assert_uint_eq(refused, tries);
    for (size_t n = 0; n < bytes.len; n += 1 + below(300)) {
        ck_assert_int_eq(sessions_init(&u, 100, sip), 0);
        ck_assert_int_eq(sessions_take(&u, bytes.data, n, &e), -EBADMSG);
        sessions_fini(&u);
    }
    str_fini(&bytes);
    sessions_fini(&t);
}
END_TEST

/* Each call of the writing fails once: the old file is whole, or the new one is. */

static int calls, fail_at;

static bool fails(void)
{
    errno = EIO;
    return ++calls == fail_at;
}

static struct sys_table real;

static int bad_open(const char *path, int flags, unsigned mode)
{
    return fails() ? -1 : real.open(path, flags, mode);
}

static ssize_t bad_write(int fd, const void *buf, size_t n)
{
    return fails() ? -1 : real.write(fd, buf, n < 1000 ? n : 1000); /* and short */
}

static int bad_fsync(int fd)
{
    return fails() ? -1 : real.fsync(fd);
}

static int bad_rename(const char *from, const char *to)
{
    return fails() ? -1 : real.rename(from, to);
}

START_TEST(test_a_file_is_the_old_one_or_the_new_one_whatever_fails)
{
    struct sessions_table t, u, none;
    struct str bytes = {0}, empty = {0};
    struct err e;
    char dir[] = "/tmp/hearth-names-XXXXXX", path[64];
    uint32_t old = 0, fresh = 0;
    int ret = -1;
    ck_assert_ptr_nonnull(mkdtemp(dir));
    fill(&t);
    ck_assert_int_eq(sessions_init(&none, 100, sip), 0);
    sessions_put(&t, &bytes);
    sessions_put(&none, &empty);
    ck_assert_int_eq(sessions_file_read(dir, &none, &e), 0); /* there is none yet */
    real = sys;
    for (fail_at = 1; ret != 0; fail_at++) {
        ck_assert_int_eq(sessions_file_write(dir, &empty, &e), 0);
        calls = 0;
        sys.open = bad_open;
        sys.write = bad_write;
        sys.fsync = bad_fsync;
        sys.rename = bad_rename;
        ret = sessions_file_write(dir, &bytes, &e);
        sys = real;
        ck_assert_int_eq(sessions_init(&u, 100, sip), 0);
        ck_assert_int_eq(sessions_file_read(dir, &u, &e), 0);
        ck_assert(u.n == 0 || u.n == t.n);
        ck_assert(ret != 0 || u.n == t.n);
        old += u.n == 0;
        fresh += u.n == t.n;
        sessions_fini(&u);
    }
    printf("calls that failed %d: old %u, new %u\n", fail_at - 2, old, fresh);
    ck_assert(old > 5 && fresh > 1);
    snprintf(path, sizeof path, "%s/" SESSIONS_FILE, dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/" SESSIONS_FILE ".new", dir);
    unlink(path);
    ck_assert_int_eq(rmdir(dir), 0);
    ck_assert_int_lt(sessions_file_write(dir, &bytes, &e), 0);
    str_fini(&bytes);
    str_fini(&empty);
    sessions_fini(&t);
    sessions_fini(&none);
}
END_TEST

UNIT_MAIN("sessions", test_the_table_does_what_a_plain_array_does, test_what_was_put_is_taken_and_no_damaged_byte_is,
          test_a_file_is_the_old_one_or_the_new_one_whatever_fails)
