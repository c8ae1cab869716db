/* Check: a security condition with a name, so that a test build can switch one off and see whether any test notices.
 *
 * What: CHECK("oidc.audience", cond) is cond. In a build with -Dmutations=true it is also true when base_check_off names it.
 *       `./dev test security --mutations` removes each in turn: a check that can be removed unnoticed is not tested.
 * Who:  any thread; base_check_off is set before the code runs that is tested.
 * Names: "part.what", [a-z0-9_.]; each stands in exactly one place of the sources, as a literal.
 */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

#include <stdbool.h>

#ifdef GH_MUTATIONS
#include <stddef.h>
#include <string.h>
extern const char *base_check_off; /* NULL: none */
static inline bool base_check(const char *name, bool ok)
{
    return ok || (base_check_off != NULL && strcmp(base_check_off, name) == 0);
}
#define CHECK(name, ok) base_check((name), (ok))
#else
#define CHECK(name, ok) (ok)
#endif

#endif
