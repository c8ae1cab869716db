/* Device plug-ins: what a shared object gives to the engine. Private to engine/.
 *
 * What: one function, ENG_PLUGIN_SYMBOL, whose result describes the devices that it can drive and their op table. The engine opens
 *       plug-ins at run time (device.h), so that one build serves machines with a GPU and without.
 * Who:  the thread that opens an engine; `devices` any thread.
 * Promises: the engine uses nothing of a plug-in whose abi, table_bytes or version differ from its own.
 */
#ifndef ENGINE_PLUGIN_H
#define ENGINE_PLUGIN_H

#include "engine/kernels.h"

#define ENG_PLUGIN_ABI    1u
#define ENG_PLUGIN_SYMBOL "gatehouse_engine_plugin"
#define ENG_DEVICES_MAX   16u

struct eng_device_info {
    unsigned index;
    char name[96];    /* "NVIDIA H100 80GB HBM3" */
    char detail[160]; /* "compute capability 9.0, driver 580.65.06, CUDA 13.0" */
    uint64_t free_bytes, total_bytes;
    bool usable;
    char why[BASE_DETAIL_MAX]; /* not usable: the reason, and what to do */
};

struct eng_plugin {
    uint32_t abi;         /* ENG_PLUGIN_ABI */
    uint32_t table_bytes; /* sizeof(struct eng_ops) */
    const char *version;  /* of Gatehouse */
    /* Fills at most ENG_DEVICES_MAX. BASE_UNAVAILABLE when there is no driver or it does not answer: err says which, and what to do. */
    enum base_code (*devices)(struct eng_device_info *out, unsigned *ret_n, struct base_err *err);
    /* For metrics, from any thread. False: the driver's management library is not there. */
    bool (*gauges)(unsigned index, struct eng_gauges *out);
    const struct eng_ops *ops;
};

typedef const struct eng_plugin *eng_plugin_fn(void);

#endif
