/* Fuzz: the configuration file's reader. */
#include "gateway/config.h"

#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gw_config *config = NULL;
    struct base_err err = {0};

    if (gw_config_parse(&config, "fuzz", (const char *)data, size, &err) == BASE_OK)
        gw_config_free(config);
    return 0;
}
