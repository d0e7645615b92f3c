/* main - hearthd: the command line. */
#include <stdio.h>

int main(void)
{
    printf("hearthd %s (%s)\n", HEARTH_VERSION, HEARTH_COMMIT);
    return 0;
}
