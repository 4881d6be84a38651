/* A stand-in for NVIDIA's libnvidia-ml.so.1: the part of its public interface gpuq calls, without a GPU.
 *
 * Its state is the text file named by FAKE_NVML, read again at each call, so a test changes the machine while the
 * library is in use. Lines:
 *
 *     driver TEXT          version of the driver
 *     fail CODE            every call returns this NVML error
 *     hang                 every call waits until this line is gone
 *     gpu KEY=VALUE|...    one device; the order of lines is the index
 *
 *     crash                the next call kills the process
 *     xid NUMBER|UUID|CODE an error event; each number is delivered once to each session that listened before
 *
 * links: where the NVLinks of a device lead, as a comma list of indices and 'switch'. numa and switch: what it is below.
 * Keys: uuid name bus total reserved used util temp power (milliwatts) sm mem (MHz) throttle (mask) ecc_c ecc_u (counts)
 * remap ("corrected,uncorrected,pending,failed") pids drawing (comma lists of pid or pid:bytes), and fail=CODE for every
 * call on the device. A key left out is not supported; a value '!CODE' makes that call return the error. A device once
 * seen with fail=15 (lost) stays lost until the library is initialised anew, as the real one does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    TIMEOUT = 10,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
    RESET_REQUIRED = 16,
    LIB_RM_VERSION_MISMATCH = 18,
    ARGUMENT_VERSION_MISMATCH = 25,
    UNKNOWN = 999
};

#define MAX_GPUS 64
#define MAX_XIDS 32

typedef struct {
    char driver[80];
    int fail, hang, count;
    char gpus[MAX_GPUS][512];
    int xids;
    struct { int number, code; char uuid[80]; } xid[MAX_XIDS];
} State;

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
typedef struct {
    char bus_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} Pci;
typedef struct { void *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; } Event;

static int initialised;
static int heard;                 /* number of the last Xid that was delivered, or had come before the session listened */
static int listening[MAX_GPUS];
static int lost[MAX_GPUS];
static int handles[MAX_GPUS]; /* a handle is the address of one of these */

static int load(State *state) {
    char line[600];
    memset(state, 0, sizeof *state);
    strcpy(state->driver, "0");
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (!strncmp(line, "driver ", 7)) snprintf(state->driver, sizeof state->driver, "%.79s", line + 7);
        else if (!strncmp(line, "fail ", 5)) state->fail = atoi(line + 5);
        else if (!strcmp(line, "hang")) state->hang = 1;
        else if (!strcmp(line, "crash")) abort();
        else if (state->xids < MAX_XIDS
                 && sscanf(line, "xid %d|%79[^|]|%d", &state->xid[state->xids].number, state->xid[state->xids].uuid,
                           &state->xid[state->xids].code) == 3)
            state->xids++;
        else if (!strncmp(line, "gpu ", 4) && state->count < MAX_GPUS)
            snprintf(state->gpus[state->count++], sizeof state->gpus[0], "%.511s", line + 4);
    }
    fclose(file);
    return 1;
}

/* What every call does first: wait while the driver hangs, then say whether it fails as a whole. */
static int enter(State *state) {
    int there = load(state);
    while (there && state->hang) {
        usleep(5000);
        there = load(state);
    }
    if (!there) return DRIVER_NOT_LOADED;
    return state->fail;
}

static int in_session(State *state) {
    int code = enter(state);
    return code ? code : initialised ? SUCCESS : UNINITIALIZED;
}

/* The value of a key of a device: SUCCESS, NOT_SUPPORTED, or the error the state file asks for. */
static int value(const State *state, int index, const char *key, char *out, size_t size) {
    char copy[512], *rest = copy, *part;
    size_t length = strlen(key);
    snprintf(copy, sizeof copy, "%s", state->gpus[index]);
    while ((part = strsep(&rest, "|"))) {
        if (strncmp(part, key, length) || part[length] != '=') continue;
        part += length + 1;
        if (part[0] == '!') return atoi(part + 1);
        if (strlen(part) + 1 > size) return INSUFFICIENT_SIZE;
        strcpy(out, part);
        return SUCCESS;
    }
    return NOT_SUPPORTED;
}

/* The index of a handle, after the checks every call on a device begins with. */
static int device(State *state, const int *handle, int *index) {
    char text[32];
    int code = in_session(state);
    if (code) return code;
    if (handle < handles || handle >= handles + state->count) return INVALID_ARGUMENT;
    *index = (int)(handle - handles);
    if (lost[*index]) return GPU_IS_LOST;
    if (value(state, *index, "fail", text, sizeof text)) return SUCCESS;
    lost[*index] = atoi(text) == GPU_IS_LOST;
    return atoi(text);
}

static int text_of(const int *handle, const char *key, char *out, unsigned size) {
    State state;
    int index, code = device(&state, handle, &index);
    return code ? code : value(&state, index, key, out, size);
}

static int number_of(const int *handle, const char *key, unsigned long long *out) {
    char text[64];
    int code = text_of(handle, key, text, sizeof text);
    if (!code) *out = strtoull(text, NULL, 10);
    return code;
}

int nvmlInitWithFlags(unsigned flags) {
    State state;
    (void)flags;
    int code = enter(&state);
    if (code) return code;
    memset(lost, 0, sizeof lost);
    memset(listening, 0, sizeof listening);
    for (int i = 0; i < state.xids; i++) heard = state.xid[i].number;
    initialised++;
    return SUCCESS;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    State state;
    int code = in_session(&state);
    if (!code) initialised--;
    return code;
}

const char *nvmlErrorString(int code) {
    switch (code) {
    case SUCCESS: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case TIMEOUT: return "Timeout";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    case RESET_REQUIRED: return "GPU requires reset";
    case LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    case ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    State state;
    int code = in_session(&state);
    if (code) return code;
    if (strlen(state.driver) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, state.driver);
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *out) {
    State state;
    int code = in_session(&state);
    if (!code) *out = (unsigned)state.count;
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, int **out) {
    State state;
    int found, code = in_session(&state);
    if (code) return code;
    if (index >= (unsigned)state.count) return INVALID_ARGUMENT;
    *out = &handles[index];
    return device(&state, *out, &found);
}

int nvmlDeviceGetIndex(const int *handle, unsigned *out) {
    State state;
    int index, code = device(&state, handle, &index);
    if (!code) *out = (unsigned)index;
    return code;
}

int nvmlDeviceGetName(const int *handle, char *out, unsigned size) { return text_of(handle, "name", out, size); }

int nvmlDeviceGetUUID(const int *handle, char *out, unsigned size) { return text_of(handle, "uuid", out, size); }

int nvmlDeviceGetPciInfo_v3(const int *handle, Pci *out) {
    memset(out, 0, sizeof *out);
    int code = text_of(handle, "bus", out->bus_id, sizeof out->bus_id);
    if (code) return code;
    if (sscanf(out->bus_id, "%x:%x:%x", &out->domain, &out->bus, &out->device) != 3) return UNKNOWN;
    snprintf(out->bus_legacy, sizeof out->bus_legacy, "%04x:%02x:%02x.0", out->domain & 0xffff, out->bus & 0xff,
             out->device & 0xff);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(const int *handle, MemoryV2 *out) {
    if (out->version != (sizeof *out | 2u << 24)) return ARGUMENT_VERSION_MISMATCH;
    int code = number_of(handle, "total", &out->total);
    if (code) return code;
    out->reserved = 0;
    if (number_of(handle, "reserved", &out->reserved) == UNKNOWN) return UNKNOWN;
    if ((code = number_of(handle, "used", &out->used))) return code;
    out->free = out->total - out->reserved - out->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo(const int *handle, Memory *out) {
    unsigned long long reserved = 0;
    int code = number_of(handle, "total", &out->total);
    if (code || (code = number_of(handle, "used", &out->used))) return code;
    number_of(handle, "reserved", &reserved);
    out->used += reserved; /* version 1 has no field for it */
    out->free = out->total - out->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(const int *handle, Utilization *out) {
    unsigned long long percent;
    int code = number_of(handle, "util", &percent);
    if (!code) *out = (Utilization){(unsigned)percent, 0};
    return code;
}

int nvmlDeviceGetTemperature(const int *handle, int sensor, unsigned *out) {
    unsigned long long degrees;
    if (sensor != 0) return INVALID_ARGUMENT;
    int code = number_of(handle, "temp", &degrees);
    if (!code) *out = (unsigned)degrees;
    return code;
}

int nvmlDeviceGetPowerUsage(const int *handle, unsigned *out) {
    unsigned long long milliwatts;
    int code = number_of(handle, "power", &milliwatts);
    if (!code) *out = (unsigned)milliwatts;
    return code;
}

int nvmlDeviceGetClockInfo(const int *handle, unsigned kind, unsigned *out) {
    unsigned long long mhz;
    int code = number_of(handle, kind == 1 ? "sm" : "mem", &mhz);
    if (!code) *out = (unsigned)mhz;
    return code;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(const int *handle, unsigned long long *out) {
    return number_of(handle, "throttle", out);
}

int nvmlDeviceGetTotalEccErrors(const int *handle, unsigned kind, unsigned counter, unsigned long long *out) {
    (void)counter;
    return number_of(handle, kind ? "ecc_u" : "ecc_c", out);
}

int nvmlDeviceGetRemappedRows(const int *handle, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failed) {
    char text[64];
    int code = text_of(handle, "remap", text, sizeof text);
    if (code) return code;
    return sscanf(text, "%u,%u,%u,%u", corrected, uncorrected, pending, failed) == 4 ? SUCCESS : UNKNOWN;
}

int nvmlEventSetCreate(void **out) {
    State state;
    int code = in_session(&state);
    if (!code) *out = &listening;
    return code;
}

int nvmlEventSetFree(void *set) {
    (void)set;
    return SUCCESS;
}

int nvmlDeviceRegisterEvents(const int *handle, unsigned long long types, void *set) {
    State state;
    int index, code = device(&state, handle, &index);
    (void)set;
    if (!code && types != 8) return INVALID_ARGUMENT; /* only Xids are known here */
    if (!code) listening[index] = 1;
    return code;
}

int nvmlEventSetWait_v2(void *set, Event *out, unsigned milliseconds) {
    State state;
    char uuid[80];
    int code = in_session(&state);
    (void)set;
    (void)milliseconds;
    if (code) return code;
    for (int i = 0; i < state.xids; i++) {
        if (state.xid[i].number <= heard) continue;
        heard = state.xid[i].number;
        for (int gpu = 0; gpu < state.count; gpu++) {
            if (!listening[gpu] || value(&state, gpu, "uuid", uuid, sizeof uuid)) continue;
            if (strcmp(uuid, state.xid[i].uuid)) continue;
            *out = (Event){&handles[gpu], 8, (unsigned long long)state.xid[i].code, ~0u, ~0u};
            return SUCCESS;
        }
    }
    return TIMEOUT;
}

/* A process is said to use 1 GiB unless it is told. *count is the room there is, and then what is needed. */
static int processes(const int *handle, const char *key, unsigned *count, Process *out) {
    char text[256], *rest = text, *part;
    unsigned room = *count, found = 0;
    int code = text_of(handle, key, text, sizeof text);
    if (code) return code;
    while ((part = strsep(&rest, ","))) {
        if (!*part) continue;
        char *bytes = strchr(part, ':');
        unsigned long long used = bytes ? strtoull(bytes + 1, NULL, 10) : 1ull << 30;
        if (found < room) out[found] = (Process){(unsigned)atoi(part), used, ~0u, ~0u};
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(const int *handle, unsigned *count, Process *out) {
    return processes(handle, "pids", count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(const int *handle, unsigned *count, Process *out) {
    return processes(handle, "drawing", count, out);
}

int nvmlDeviceGetTopologyCommonAncestor(const int *one, const int *other, unsigned *out) {
    unsigned long long mine, its;
    int code;
    if ((code = number_of(one, "numa", &mine)) || (code = number_of(other, "numa", &its))) return code;
    *out = mine == its ? 40 : 50;
    if (*out == 50 || number_of(one, "switch", &mine) || number_of(other, "switch", &its)) return SUCCESS;
    if (mine == its) *out = 10;
    return SUCCESS;
}

/* The nth of a device's links, as text; NOT_SUPPORTED beyond the last. */
static int link_of(const int *handle, unsigned number, char *out, size_t size) {
    char text[256], *rest = text, *part;
    int code = text_of(handle, "links", text, sizeof text);
    if (code) return code;
    for (unsigned i = 0; (part = strsep(&rest, ",")); i++)
        if (i == number && *part) {
            snprintf(out, size, "%s", part);
            return SUCCESS;
        }
    return NOT_SUPPORTED;
}

int nvmlDeviceGetNvLinkState(const int *handle, unsigned number, unsigned *out) {
    char text[64];
    int code = link_of(handle, number, text, sizeof text);
    if (!code) *out = 1;
    return code;
}

int nvmlDeviceGetNvLinkRemoteDeviceType(const int *handle, unsigned number, unsigned *out) {
    char text[64];
    int code = link_of(handle, number, text, sizeof text);
    if (!code) *out = strcmp(text, "switch") ? 0 : 2;
    return code;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(const int *handle, unsigned number, Pci *out) {
    char text[64];
    int code = link_of(handle, number, text, sizeof text);
    if (code) return code;
    int index = atoi(text);
    if (!strcmp(text, "switch") || index < 0 || index >= MAX_GPUS) return NOT_SUPPORTED;
    return nvmlDeviceGetPciInfo_v3(&handles[index], out);
}
