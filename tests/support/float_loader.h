/* float_loader - a loader in front of another that hands out every tensor as float32.
 *
 * Same numbers, other type: backends then multiply floats, without rounding activations to the 8 bits that block types
 * are multiplied with. Closing it closes the inner one.
 */
#ifndef HEARTH_TESTS_FLOAT_LOADER_H
#define HEARTH_TESTS_FLOAT_LOADER_H

#include "engine/model/load.h"

/* Never fails: out of memory ends the test. */
struct loader *float_loader(struct loader *inner);

#endif
