/* Test helper: the unpacked reference models, vocabularies and templates beside the project.
 *
 * GH_REFMODELS names a folder that already holds them; otherwise prepare.sh of the shared folder unpacks them
 * once into a folder of the temporary directory, under a lock, since tests run side by side.
 */
#ifndef TESTS_REFDATA_H
#define TESTS_REFDATA_H

#include "tap.h"

#include <unistd.h>

/* NULL when there are none: skip then. */
__attribute__((unused)) static const char *ref_dir(void)
{
    static char dir[512];
    const char *shared = tap_shared_dir(), *given = getenv("GH_REFMODELS");
    char command[8192];

    if (dir[0] != '\0')
        return dir;
    if (given != NULL && access(given, R_OK) == 0) {
        snprintf(dir, sizeof(dir), "%s", given);
        return dir;
    }
    if (shared == NULL)
        return NULL;
    snprintf(dir, sizeof(dir), "/tmp/gatehouse-refmodels-%u", (unsigned)getuid());
    snprintf(command, sizeof(command),
             "mkdir -p -m 700 %s && flock %s/.lock bash '%s/refmodels/prepare.sh' %s >&2", dir, dir, shared,
             dir);
    if (system(command) != 0)
        dir[0] = '\0';
    return dir[0] != '\0' ? dir : NULL;
}

#endif
