/* Check: the switch of test builds. See check.h. */
#include "base/check.h"

#ifdef GH_MUTATIONS
#include <stdlib.h>

const char *base_check_off;

/* The gateway as a whole is tested by starting it with one check less. */
static __attribute__((constructor)) void read_environment(void)
{
    base_check_off = getenv("GH_CHECK_OFF");
}
#else
typedef int base_check_has_no_switch_here; /* ISO C wants a declaration */
#endif
