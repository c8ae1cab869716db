/* NVML: see nvml.h. Its types are declared here, so that no header of the driver is needed to build. */
#include "engine/cuda/nvml.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

struct nvml_utilization {
    unsigned gpu, memory; /* percent */
};
struct nvml_memory {
    unsigned long long total, free, used;
};

static struct {
    pthread_once_t once;
    bool there;
    int (*init)(void);
    int (*driver)(char *out, unsigned bytes);
    int (*by_bus)(const char *bus, void **ret_device);
    int (*utilization)(void *device, struct nvml_utilization *out);
    int (*temperature)(void *device, int sensor, unsigned *out);
    int (*power)(void *device, unsigned *milliwatt);
    int (*memory)(void *device, struct nvml_memory *out);
} nvml = {PTHREAD_ONCE_INIT};

static void open_nvml(void)
{
    void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    const struct {
        const char *name;
        void *slot;
    } wanted[] = {{"nvmlInit_v2", &nvml.init},
                  {"nvmlSystemGetDriverVersion", &nvml.driver},
                  {"nvmlDeviceGetHandleByPciBusId_v2", &nvml.by_bus},
                  {"nvmlDeviceGetUtilizationRates", &nvml.utilization},
                  {"nvmlDeviceGetTemperature", &nvml.temperature},
                  {"nvmlDeviceGetPowerUsage", &nvml.power},
                  {"nvmlDeviceGetMemoryInfo", &nvml.memory}};
    bool all = library != NULL;

    for (size_t i = 0; all && i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        void *symbol = dlsym(library, wanted[i].name);

        all = symbol != NULL;
        memcpy(wanted[i].slot, &symbol, sizeof(symbol));
    }
    nvml.there = all && nvml.init() == 0;
}

static bool there(void)
{
    pthread_once(&nvml.once, open_nvml);
    return nvml.there;
}

bool gpu_nvml_driver(char *out, size_t out_bytes)
{
    return there() && nvml.driver(out, (unsigned)out_bytes) == 0;
}

/* By bus address: the runtime and NVML number devices differently. */
bool gpu_nvml_gauges(unsigned index, struct eng_gauges *out)
{
    struct nvml_utilization utilization;
    struct nvml_memory memory;
    unsigned celsius, milliwatt;
    char bus[32];
    void *device;

    if (!there() || cudaDeviceGetPCIBusId(bus, sizeof(bus), (int)index) != cudaSuccess ||
        nvml.by_bus(bus, &device) != 0 || nvml.utilization(device, &utilization) != 0 ||
        nvml.temperature(device, 0, &celsius) != 0 || nvml.power(device, &milliwatt) != 0 ||
        nvml.memory(device, &memory) != 0)
        return false;
    *out = eng_gauges{utilization.gpu / 100.0, (double)celsius, milliwatt / 1000.0, memory.used,
                             memory.total};
    return true;
}
