/* Plug-ins of another interface (BAD_ABI) or version (BAD_VERSION), or none at all: nothing of them may be used. */
#include "engine/plugin.h"

#include <stdlib.h>

#if defined(BAD_ABI) || defined(BAD_VERSION)
const struct eng_plugin *gatehouse_engine_plugin(void);

static enum base_code devices(struct eng_device_info *out, unsigned *ret_n, struct base_err *err)
{
    (void)out;
    (void)ret_n;
    (void)err;
    abort();
}

const struct eng_plugin *gatehouse_engine_plugin(void)
{
    static const struct eng_plugin plugin = {
#if defined(BAD_ABI)
        .abi = ENG_PLUGIN_ABI + 1,
        .version = GH_VERSION,
#else
        .abi = ENG_PLUGIN_ABI,
        .version = "0.0.0-other",
#endif
        .table_bytes = sizeof(struct eng_ops),
        .devices = devices
    };

    return &plugin;
}
#endif
