/* notify - what the service manager hears from us and gives to us. libsystemd is fenced here.
 *
 * Outside systemd (no NOTIFY_SOCKET), or built without libsystemd, the messages go nowhere and that is no error. One
 * thread. See sd_notify(3), sd_watchdog_enabled(3), sd_listen_fds(3).
 */
#ifndef HEARTH_SERVER_NOTIFY_H
#define HEARTH_SERVER_NOTIFY_H

#include "engine/base/err.h"

#include <stdint.h>

/* The server answers requests (after its own warm-up token); `status` is one line for people. */
void notify_ready(const char *status);
/* It drains. */
void notify_stopping(const char *status);
/* What it does now: "loading weights, 40 %". */
void notify_status(const char *status);
/* It makes progress. Call it for a step that finished or when there is nothing to do, never from a bare timer: a hang
 * must be seen. */
void notify_watchdog(void);
/* How often the manager wants to hear that, in ns: half of WatchdogSec. 0 = not at all. */
uint64_t notify_watchdog_ns(void);

/* Listening stream sockets that were handed over (LISTEN_FDS), close-on-exec: at most `cap` into fds. Returns how many
 * there are, or -EINVAL with e when one is no such socket, -E2BIG when there are more. Call once: the environment is
 * cleared, so that children do not take them too. */
int notify_listen_fds(int *fds, int cap, struct err *e);

#endif
