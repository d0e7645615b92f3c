/* spawn - start and stop what runs the engine's side of a boundary: a thread, or a fresh exec of this program.
 *
 * The process gets exactly three descriptors (segment, its bell, the front's bell) as 3, 4, 5 and closes all others; it
 * dies with its parent and ignores the terminal's signals. One front thread.
 */
#ifndef HEARTH_ENGINE_SPAWN_H
#define HEARTH_ENGINE_SPAWN_H

#include "engine/boundary.h"

#include <pthread.h>
#include <stdbool.h>

struct spawn {
    enum engine_mode mode;
    bool running;
    pthread_t thread;
    int pid, pidfd; /* EXEC: pidfd becomes readable when the process has ended */
};

/* 0 or -errno with e. `b` must outlive the thread. program: NULL = this binary. */
int spawn_start(struct spawn *s, enum engine_mode mode, const char *program, struct boundary *b, struct err *e);
/* EXEC: has it ended? Then *how says how, for the log, and it is reaped. Always false for a thread. */
bool spawn_ended(struct spawn *s, char how[64]);
/* It was told to quit (MSG_QUIT): wait for it; a process that takes longer than 5 s is killed. */
void spawn_stop(struct spawn *s);
/* End it at once (EXEC; a broken engine). */
void spawn_kill(struct spawn *s);

#endif
