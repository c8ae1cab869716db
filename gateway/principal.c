/* Principal: names. See principal.h. */
#include "gateway/principal.h"

const char *gw_auth_method_name(enum gw_auth_method method)
{
    switch (method) {
    case GW_AUTH_NONE: return "none";
    case GW_AUTH_API_KEY: return "api_key";
    case GW_AUTH_SESSION: return "session";
    }
    return "none";
}
