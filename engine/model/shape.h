/* shape - a model's sizes out of GGUF metadata, every value checked against its range; rope scaling factors.
 *
 * Errors name the key, the value and the range. MT-safe.
 */
#ifndef HEARTH_MODEL_SHAPE_H
#define HEARTH_MODEL_SHAPE_H

#include "engine/base/gguf.h"
#include "engine/model/load.h"

/* Read general.architecture and the keys below it. 0, -EINVAL (missing, out of range, contradiction) or -ENOTSUP (a
 * family or a feature that is not known) with e. */
int shape_from_gguf(struct model_shape *out, const struct gguf *g, struct err *e);

/* Llama 3.1 scaling (Grattafiori et al. 2024; the rule as in Meta's llama-models): multiply rope_factor[D/2] by 1 for
 * wavelengths below ctx / high, by `factor` above ctx / low, by a smooth transition between. */
void shape_scale_llama3(struct model_shape *s, double factor, double low, double high, double ctx);

#endif
