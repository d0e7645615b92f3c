/* main - hearthd: the command line. */
#include "engine/base/version.h"

#include <stdio.h>

int main(void)
{
    printf("hearthd %s (%s)\n", version_number, version_commit);
    return 0;
}
