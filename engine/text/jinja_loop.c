/* jinja_loop - for loops and what `loop` tells: Jinja2's LoopContext.
 *
 * Items come one at a time; `last` and `nextitem` look one ahead, `length` of a filtered loop takes all that are left.
 * So a condition (`for x in y if c`) is evaluated when Jinja2 does it, seen by namespaces that the body changes.
 */
#include "engine/text/jinja_int.h"

#include <string.h>

/* Does the loop's condition hold for this item? It sees the target's names and what is around the loop. */
static int passes(struct jeval *ev, struct jloop *lp, struct jval item, bool *out)
{
    struct jscope *outer = ev->scope, *s = jscope_new(ev, lp->scope);
    struct jval v;
    if (!s)
        return ev->rc;
    ev->scope = s;
    if (jexec_assign(ev, lp->node->loop.target, item) == 0 && jeval_expr(ev, lp->node->loop.test, &v) == 0)
        jval_truth(ev, v, out);
    ev->scope = outer;
    return ev->rc;
}

/* The next item that passes: 1, or 0 at the end, or -errno. */
static int pull(struct jeval *ev, struct jloop *lp, struct jval *out)
{
    while (*lp->at < lp->items->n) {
        bool pass = true;
        *out = lp->items->v[(*lp->at)++];
        if (jcharge(ev, 1) != 0 || (lp->filtered && passes(ev, lp, *out, &pass) != 0))
            return ev->rc;
        if (pass)
            return 1;
    }
    return 0;
}

/* Have `ahead`, if there is one more: 1, 0 or -errno. */
static int peek(struct jeval *ev, struct jloop *lp)
{
    int rc = lp->has_ahead ? 1 : pull(ev, lp, &lp->ahead);
    lp->has_ahead = rc == 1;
    return rc;
}

/* Take all that are left out of a filtered loop, so that they can be counted. */
static int drain(struct jeval *ev, struct jloop *lp)
{
    struct jlist *l = jlist_new(ev, lp->items->n - *lp->at);
    struct jval v;
    int rc = 0;
    size_t n = 0;
    while (l && (rc = pull(ev, lp, &v)) == 1)
        l->v[n++] = v;
    if (!l || rc < 0)
        return ev->rc;
    l->n = n;
    lp->items = l;
    lp->own_at = 0;
    lp->at = &lp->own_at;
    lp->filtered = false;
    return 0;
}

static int length(struct jeval *ev, struct jloop *lp, int64_t *out)
{
    if (lp->length < 0) {
        if (lp->filtered && drain(ev, lp) != 0)
            return ev->rc;
        lp->length = lp->index0 + 1 + lp->has_ahead + (int64_t)(lp->items->n - *lp->at);
    }
    *out = lp->length;
    return 0;
}

static int m_cycle(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    if (c->n_pos == 0)
        return jfail(ev, "no items for cycling given");
    *out = c->pos[(size_t)self.loop->index0 % c->n_pos];
    return 0;
}

static int m_changed(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out)
{
    struct jloop *lp = self.loop;
    struct jlist *l = jlist_new(ev, c->n_pos);
    bool same = false;
    if (!l)
        return ev->rc;
    memcpy(l->v, c->pos, c->n_pos * sizeof *l->v);
    struct jval now = jlist_val(J_TUPLE, l);
    if (lp->has_changed && jval_equal(ev, lp->changed, now, &same) != 0)
        return ev->rc;
    lp->changed = now;
    lp->has_changed = true;
    *out = jbool(!same);
    return 0;
}

static struct jval bound(struct jeval *ev, struct jloop *lp, const struct jfunc *f)
{
    struct jbound *b = jalloc(ev, 1, sizeof *b);
    if (b)
        *b = (struct jbound){f, {.type = J_LOOP, .loop = lp}};
    return (struct jval){.type = b ? J_METHOD : J_ABSENT, .bound = b};
}

static int next_item(struct jeval *ev, struct jloop *lp, struct jval *out)
{
    int rc = peek(ev, lp);
    *out = rc == 1 ? lp->ahead : jundef_hint(ev, "there is no next item");
    return ev->rc;
}

int jloop_attr(struct jeval *ev, struct jloop *lp, const struct jstr *name, struct jval *out)
{
    static const struct jfunc cycle = {"cycle", m_cycle, 0, true, {0}}, changed = {"changed", m_changed, 0, true, {0}};
    int64_t n = 0;
    bool counted = jstr_is(name, "length") || jstr_is(name, "revindex") || jstr_is(name, "revindex0");
    if (counted && length(ev, lp, &n) != 0)
        return ev->rc;
    if (jstr_is(name, "index"))
        *out = jint(lp->index0 + 1);
    else if (jstr_is(name, "index0"))
        *out = jint(lp->index0);
    else if (jstr_is(name, "first"))
        *out = jbool(lp->index0 == 0);
    else if (jstr_is(name, "last"))
        *out = jbool(peek(ev, lp) == 0);
    else if (counted)
        *out = jint(n - (jstr_is(name, "length") ? 0 : lp->index0 + jstr_is(name, "revindex0")));
    else if (jstr_is(name, "previtem"))
        *out = lp->index0 > 0 ? lp->prev : jundef_hint(ev, "there is no previous item");
    else if (jstr_is(name, "nextitem"))
        return next_item(ev, lp, out);
    else if (jstr_is(name, "depth"))
        *out = jint(lp->depth0 + 1);
    else if (jstr_is(name, "depth0"))
        *out = jint(lp->depth0);
    else if (jstr_is(name, "cycle"))
        *out = bound(ev, lp, &cycle);
    else if (jstr_is(name, "changed"))
        *out = bound(ev, lp, &changed);
    else
        *out = (struct jval){0};
    return ev->rc;
}

/* One turn: 1 when the loop goes on, else 0, or -errno. */
static int turn(struct jeval *ev, struct jloop *lp, struct jscope *s)
{
    int more = peek(ev, lp);
    if (more != 1)
        return more;
    lp->has_ahead = false;
    lp->prev = lp->cur;
    lp->cur = lp->ahead;
    lp->index0++;
    s->n = 0;
    struct jscope *outer = ev->scope;
    ev->scope = s;
    int rc = jscope_set(ev, s, ev->j->id_loop, (struct jval){.type = J_LOOP, .loop = lp});
    if (rc == 0)
        rc = jexec_assign(ev, lp->node->loop.target, lp->cur);
    if (rc == 0)
        rc = jexec_body(ev, lp->node->loop.body);
    ev->scope = outer;
    lp->completed |= rc == 0;
    return rc < 0 ? rc : rc != JFLOW_BREAK;
}

/* Run the loop of node n, which stands in `scope`, over `iter`. */
static int run(struct jeval *ev, const struct jnode *n, struct jscope *scope, struct jval iter, int64_t depth0)
{
    struct jloop *lp = jalloc(ev, 1, sizeof *lp);
    struct jscope *s = jscope_new(ev, scope);
    if (!lp || !s)
        return ev->rc;
    *lp = (struct jloop){
        .node = n, .scope = scope, .filtered = n->loop.test, .index0 = -1, .length = -1, .depth0 = depth0};
    lp->items = iter.type == J_ITER ? iter.l : jval_items(ev, iter);
    lp->at = iter.type == J_ITER ? &iter.l->at : &lp->own_at;
    if (!lp->items)
        return ev->rc;
    int more;
    while ((more = turn(ev, lp, s)) == 1)
        ;
    /* Jinja2 takes `else` also when each turn ended in break or continue */
    if (more == 0 && !lp->completed && n->loop.orelse)
        return jexec_scoped(ev, n->loop.orelse, jscope_new(ev, scope));
    return more;
}

int jexec_for(struct jeval *ev, const struct jnode *n)
{
    struct jval iter;
    if (jeval_expr(ev, n->loop.iter, &iter) != 0)
        return ev->rc;
    return run(ev, n, ev->scope, iter, 0);
}

int jloop_call(struct jeval *ev, struct jloop *lp, const struct jcall *c, struct jval *out)
{
    struct jtext t, *outer = ev->capture;
    if (!lp->node->flag)
        return jfail(ev, "the loop must have the 'recursive' marker to be called recursively");
    if (c->n_pos != 1 || c->n_kw)
        return jfail(ev, "loop() takes the items to walk");
    if (jenter(ev) != 0)
        return ev->rc;
    jtext_start(&t, ev);
    ev->capture = &t;
    int rc = run(ev, lp->node, lp->scope, c->pos[0], lp->depth0 + 1);
    ev->capture = outer;
    ev->depth--;
    if (rc == 0)
        *out = jstring(jtext_done(&t));
    return ev->rc;
}
