/* The plug-in's one function, the list of devices, and why one cannot be used. */
#include "engine/cuda/device.h"
#include "engine/cuda/nvml.h"

extern "C" {
#include "engine/plugin.h"
}

#include <stdio.h>
#include <string.h>

/* What the driver takes beside our one block: the code of kernels as they are first used, and what their threads spill. */
#define DRIVER_BYTES ((size_t)256 << 20)

static enum base_code driver_fault(struct base_err *err)
{
    int driver = 0, runtime = 0;

    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0)
        return base_fail(
            err, BASE_UNAVAILABLE, 0,
            "no NVIDIA driver answers: install one for CUDA %d or later (in a container: give it the GPU)",
            runtime / 1000);
    if (driver / 1000 < runtime / 1000)
        return base_fail(
            err, BASE_UNAVAILABLE, 0,
            "the NVIDIA driver is for CUDA %d.%d, this build needs %d.0 or later: install a newer driver",
            driver / 1000, driver % 1000 / 10, runtime / 1000);
    return BASE_OK;
}

static void fill(struct eng_device_info *info, unsigned index)
{
    struct cudaDeviceProp prop;
    size_t free_bytes = 0, total_bytes = 0;
    char driver_name[64];
    int driver = 0;
    cudaError_t error;

    memset(info, 0, sizeof(*info));
    info->index = index;
    error = cudaGetDeviceProperties(&prop, (int)index);
    if (error != cudaSuccess) {
        snprintf(info->name, sizeof(info->name), "device %u", index);
        snprintf(info->why, sizeof(info->why), "%s", cudaGetErrorString(error));
        cudaGetLastError();
        return;
    }
    snprintf(info->name, sizeof(info->name), "%.95s", prop.name);
    cudaDriverGetVersion(&driver);
    if (gpu_nvml_driver(driver_name, sizeof(driver_name)))
        snprintf(info->detail, sizeof(info->detail), "compute capability %d.%d, driver %s, CUDA %d.%d",
                 prop.major, prop.minor, driver_name, driver / 1000, driver % 1000 / 10);
    else
        snprintf(info->detail, sizeof(info->detail), "compute capability %d.%d, driver for CUDA %d.%d",
                 prop.major, prop.minor, driver / 1000, driver % 1000 / 10);
    info->total_bytes = prop.totalGlobalMem;
    if (prop.major < 8) {
        snprintf(info->why, sizeof(info->why),
                 "its compute capability is %d.%d, 8.0 (A100 and later) is needed: the CPU or another route "
                 "must do",
                 prop.major, prop.minor);
        return;
    }
    if ((error = cudaSetDevice((int)index)) != cudaSuccess ||
        (error = cudaMemGetInfo(&free_bytes, &total_bytes)) != cudaSuccess) {
        snprintf(info->why, sizeof(info->why), "it does not answer: %s (nvidia-smi may say more)",
                 cudaGetErrorString(error));
        cudaGetLastError();
        return;
    }
    info->free_bytes = free_bytes > DRIVER_BYTES ? free_bytes - DRIVER_BYTES : 0;
    info->total_bytes = total_bytes;
    info->usable = true;
}

static enum base_code devices(struct eng_device_info *out, unsigned *ret_n, struct base_err *err)
{
    enum base_code rc = driver_fault(err);
    int n = 0;
    cudaError_t error;

    if (rc != BASE_OK)
        return rc;
    error = cudaGetDeviceCount(&n);
    if (error != cudaSuccess && error != cudaErrorNoDevice) {
        cudaGetLastError();
        return base_fail(err, BASE_UNAVAILABLE, 0, "the NVIDIA driver gives no devices: %s",
                         cudaGetErrorString(error));
    }
    cudaGetLastError();
    *ret_n = 0;
    for (int i = 0; error == cudaSuccess && i < n && *ret_n < ENG_DEVICES_MAX; i++)
        fill(&out[(*ret_n)++], (unsigned)i);
    return BASE_OK;
}

static const struct eng_plugin plugin = {ENG_PLUGIN_ABI, sizeof(struct eng_ops), GH_VERSION,
                                         devices,        gpu_nvml_gauges,        &gpu_ops};

extern "C" __attribute__((visibility("default"))) const struct eng_plugin *gatehouse_engine_plugin(void)
{
    return &plugin;
}
