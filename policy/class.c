/* Data classes: names, order, the stricter of two. See policy.h. */
#include "policy/policy.h"

#include "base/str.h"

#include <string.h>

static const char *const class_names[] = {"unknown", "public", "internal", "confidential", "secret"};

const char *pol_class_name(enum pol_class cls)
{
    return cls >= POL_PUBLIC && cls <= POL_SECRET ? class_names[cls] : class_names[POL_CLASS_UNKNOWN];
}

enum pol_class pol_class_parse(const char *text, size_t len)
{
    for (int cls = POL_PUBLIC; cls <= POL_SECRET; cls++)
        if (base_ascii_ieq(text, len, class_names[cls], strlen(class_names[cls])))
            return (enum pol_class)cls;
    return POL_CLASS_UNKNOWN;
}

bool pol_class_fits(enum pol_class cls, enum pol_class ceiling)
{
    return cls >= POL_PUBLIC && cls <= POL_SECRET && ceiling <= POL_SECRET && cls <= ceiling;
}

enum pol_class pol_class_stricter(enum pol_class a, enum pol_class b)
{
    if (a == POL_CLASS_UNKNOWN || b == POL_CLASS_UNKNOWN)
        return POL_CLASS_UNKNOWN;
    return a > b ? a : b;
}
