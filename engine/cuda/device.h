/* What device.cu gives to plugin.cu and to tests. Private to engine/cuda/. */
#ifndef ENGINE_CUDA_DEVICE_H
#define ENGINE_CUDA_DEVICE_H

#include "engine/cuda/gpu.h"

extern "C" const struct eng_ops gpu_ops;

/* For tests: how long a step may go without an answer. */
extern "C" __attribute__((visibility("default"))) void gpu_set_watchdog(unsigned ms);

#endif
