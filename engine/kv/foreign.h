/* foreign - contents that lie on the drives under another KV format: known, and of no use here.
 *
 * Whoever changes kv.format finds nothing of what he had, and should be told why. The indexes of other formats are read
 * once, at start, up to FOREIGN_BLOCKS entries; of each a hash of root, depth and ids is kept. The root names the
 * tenant, so nobody learns of another's contents. Engine thread.
 */
#ifndef HEARTH_KV_FOREIGN_H
#define HEARTH_KV_FOREIGN_H

#include "engine/base/hash.h"
#include "engine/kv/nvme_index.h"

#define FOREIGN_BLOCKS 65536

struct foreign;

/* Read what the folders (commas between) hold in formats other than shape's, with blocks of as many tokens. *out: NULL
 * when there is nothing. 0 or -ENOMEM; what can't be read is not there. */
int foreign_open(struct foreign **out, const char *dirs, const struct nvme_shape *shape);
void foreign_close(struct foreign *f); /* NULL is fine */

/* Is block `depth` of a chain with this root and these ids among them? f may be NULL. */
bool foreign_has(const struct foreign *f, const struct hash_key *root, uint32_t depth, const int32_t *ids);

#endif
