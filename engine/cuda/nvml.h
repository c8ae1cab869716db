/* NVIDIA's management library, when the driver brought it: the driver's name, and gauges. Private to engine/cuda/.
 *
 * Who:  any thread. Promises: without the library every function says false.
 * Source: NVML API reference; only functions of its first stable version are used.
 */
#ifndef ENGINE_CUDA_NVML_H
#define ENGINE_CUDA_NVML_H

#include "engine/cuda/gpu.h"

extern "C" {
#include "engine/plugin.h"
}

bool gpu_nvml_driver(char *out, size_t out_bytes); /* "580.65.06" */
bool gpu_nvml_gauges(unsigned index, struct eng_gauges *out);

#endif
