/* Devices: which are there, and which one runs a model. Private to engine/.
 *
 * What: the CPU is always there; CUDA devices come by a plug-in (plugin.h), opened at the first question and kept to the end of the
 *       process, since a CUDA driver cannot be unloaded safely.
 * Who:  any thread.
 * Promises: a plug-in that is missing, of another version, without a driver or without a usable device costs one line of text, never
 *           the start: unless it was asked for by name.
 */
#ifndef ENGINE_DEVICE_H
#define ENGINE_DEVICE_H

#include "engine/plugin.h"

struct eng_device_pick {
    const struct eng_ops *ops;
    const struct eng_plugin *plugin; /* NULL: the CPU */
    unsigned index;
    bool is_cpu;
    uint64_t free_bytes; /* memory that may be taken */
    char name[96];       /* "CPU", "NVIDIA H100 80GB HBM3" */
    char note
        [BASE_DETAIL_MAX]; /* why it is not a CUDA device; empty when it is, or when the CPU was asked for */
};

/* want: as eng_options.device. Devices are tried from the one with most free memory. BASE_INVALID for a name that is none,
 * BASE_UNAVAILABLE when a CUDA device was asked for and cannot be had, BASE_UNSUPPORTED for unknown kernels. */
enum base_code eng_device_pick(struct eng_device_pick *ret_pick, const char *want, const char *kernels,
                               struct base_err *err);

/* The CPU as a pick; kernels: see eng_ops_cpu. */
enum base_code eng_device_cpu(struct eng_device_pick *ret_pick, const char *kernels, struct base_err *err);

/* All CUDA devices, usable or not; out has ENG_DEVICES_MAX. On failure err says why there are none. */
enum base_code eng_device_list(struct eng_device_info *out, unsigned *ret_n, struct base_err *err);

#endif
