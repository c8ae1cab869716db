/* Check: the switch of test builds. See check.h. */
#include "base/check.h"

#ifdef GH_MUTATIONS
const char *base_check_off;
#else
typedef int base_check_has_no_switch_here; /* ISO C wants a declaration */
#endif
