/* A stand-in for the driver's library in tests: two GPUs, one of which tells nothing of itself. */
#include <string.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process_t;

static int first, second;

int nvmlInit_v2(void) { return 0; }

int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = index == 0 ? &first : &second;
    return 0;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    if (device != &first || length < 12) return 3;
    strcpy(name, "Test GPU 80");
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    memory->total = 80000000000ULL;
    memory->free = 60000000000ULL;
    memory->used = device == &first ? 20000000000ULL : 7;
    return 0;
}

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *rates) {
    if (device != &first) return 3;
    rates->gpu = 63;
    rates->memory = 5;
    return 0;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    if (device != &first || sensor != 0) return 3;
    *celsius = 54;
    return 0;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    if (device != &first) return 3;
    *milliwatts = 320500;
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process_t *found) {
    if (device != &first || *count < 3) return 7;
    found[0] = (process_t){100, 5000000000ULL, 0xffffffff, 0xffffffff};
    found[1] = (process_t){101, 1000, 0xffffffff, 0xffffffff};
    found[2] = (process_t){102, ~0ULL, 0xffffffff, 0xffffffff};
    *count = 3;
    return 0;
}
