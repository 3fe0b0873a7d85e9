/* CUDA libraries without a device: they let the released onnxruntime-gpu create sessions, optimise graphs, choose
 * kernels and run graphs on a machine without a GPU. No kernel computes anything, so every value is meaningless.
 *
 * `tests/gpu/stubs.py` compiles this file once for every library that the wheel needs, and adds a function that
 * returns 0 (success) for each symbol that this file does not define. Device memory is host memory that is never
 * touched: large copies are skipped, small ones are made, because they carry shapes.
 *
 * Environment: STUB_SM, the compute capability (80 is 8.0; below 75 no kernel starts, as with the wheel); STUB_MEMORY,
 * bytes of device memory; STUB_DRIVER, the CUDA version of the driver (13000 is 13.0; below it no call finds a device).
 * The struct layouts and numbers of attributes are those of CUDA 13 (driver_types.h).
 */
#define _GNU_SOURCE
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define LARGEST_COPY 65536

static long from_environment(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

#ifdef LIBRARY_cudart
struct launch {
    int64_t time_ns;
    const char *kernel;
};

static struct launch launches[1 << 20];
static long launch_count;
static size_t held_bytes, peak_bytes;

/* Read by `tests/gpu/probe.py` through ctypes. */
EXPORT long stub_launch_count(void) { return launch_count; }
EXPORT const char *stub_launch_kernel(long index) { return launches[index].kernel; }
EXPORT int64_t stub_launch_time_ns(long index) { return launches[index].time_ns; }
EXPORT size_t stub_peak_bytes(void) { return peak_bytes; }

EXPORT int stub_launch(const char *kernel) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (launch_count < (long)(sizeof launches / sizeof *launches))
        launches[launch_count++] = (struct launch){now.tv_sec * 1000000000LL + now.tv_nsec, kernel};
    return 0;
}

/* Kernels are known by the address of a host function. Open addressing; the wheel registers some 30,000. */
#define SLOTS (1 << 18)
static struct {
    const void *host;
    const char *name;
} kernels[SLOTS];

static size_t slot_of(const void *host) {
    size_t slot = ((uintptr_t)host >> 4) * 2654435761u % SLOTS;
    while (kernels[slot].host && kernels[slot].host != host)
        slot = (slot + 1) % SLOTS;
    return slot;
}

static const char *kernel_name(const void *host) {
    const char *name = kernels[slot_of(host)].name;
    return name ? name : "unknown kernel";
}

EXPORT void **__cudaRegisterFatBinary(void *binary) {
    static void *handle;
    (void)binary;
    return &handle;
}
EXPORT void __cudaRegisterFunction(void **handle, const char *host, char *device, const char *name) {
    (void)handle, (void)device;
    size_t slot = slot_of(host);
    kernels[slot].host = host;
    kernels[slot].name = name;
}

/* cudaErrorInsufficientDriver and cudaErrorNoKernelImageForDevice. */
static int driver_status(void) { return from_environment("STUB_DRIVER", 13000) < 13000 ? 35 : 0; }
static int last_error;
static int launch_of(const char *kernel) {
    if (from_environment("STUB_SM", 80) < 75)
        return last_error = 209;
    return stub_launch(kernel);
}
EXPORT int cudaGetLastError(void) {
    int status = last_error;
    last_error = 0;
    return status;
}

EXPORT int cudaLaunchKernel(const void *host) { return launch_of(kernel_name(host)); }
EXPORT int __cudaLaunchKernel(const void *kernel) { return launch_of(kernel_name(kernel)); }
EXPORT int cudaLaunchCooperativeKernel(const void *host) { return stub_launch(kernel_name(host)); }
EXPORT int cudaLaunchKernelExC(const void *config, const void *host) {
    (void)config;
    return stub_launch(kernel_name(host));
}
EXPORT int cudaMemsetAsync(void *at) {
    (void)at;
    return stub_launch("memset");
}
EXPORT int __cudaGetKernel(const void **kernel, const void *host) {
    *kernel = host;
    return 0;
}
EXPORT int __cudaPopCallConfiguration(void *grid, void *block, size_t *shared, void *stream) {
    memset(grid, 0, 12);
    memset(block, 0, 12);
    *shared = 0;
    *(void **)stream = NULL;
    return 0;
}

/* Memory. The size is kept in a page before the block. */
#define PAGE 4096

static int allocate(void **at, size_t bytes) {
    char *block = mmap(NULL, bytes + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block == MAP_FAILED || held_bytes + bytes > (size_t)from_environment("STUB_MEMORY", 80000000000)) {
        *at = NULL;
        return 2; /* cudaErrorMemoryAllocation */
    }
    *(size_t *)block = bytes;
    held_bytes += bytes;
    peak_bytes = held_bytes > peak_bytes ? held_bytes : peak_bytes;
    *at = block + PAGE;
    return 0;
}

static int release(void *at) {
    if (at) {
        size_t bytes = *(size_t *)((char *)at - PAGE);
        held_bytes -= bytes;
        munmap((char *)at - PAGE, bytes + PAGE);
    }
    return 0;
}

EXPORT int cudaMalloc(void **at, size_t bytes) { return allocate(at, bytes); }
EXPORT int cudaFree(void *at) { return release(at); }
EXPORT int cudaMallocFromPoolAsync(void **at, size_t bytes) { return allocate(at, bytes); }
EXPORT int cudaFreeAsync(void *at) { return release(at); }
EXPORT int cudaMallocHost(void **at, size_t bytes) { return (*at = calloc(1, bytes)) ? 0 : 2; }
EXPORT int cudaHostAlloc(void **at, size_t bytes) { return (*at = calloc(1, bytes)) ? 0 : 2; }
EXPORT int cudaFreeHost(void *at) {
    free(at);
    return 0;
}
EXPORT int cudaMemGetInfo(size_t *available, size_t *total) {
    *total = from_environment("STUB_MEMORY", 80000000000);
    *available = *total - held_bytes;
    return 0;
}

static int copy(void *to, const void *from, size_t bytes) {
    if (bytes <= LARGEST_COPY)
        memcpy(to, from, bytes);
    return 0;
}
EXPORT int cudaMemcpy(void *to, const void *from, size_t bytes) { return copy(to, from, bytes); }
EXPORT int cudaMemcpyAsync(void *to, const void *from, size_t bytes) {
    stub_launch("memcpy");
    return copy(to, from, bytes);
}

/* The device. */
struct properties {
    char name[256], uuid[16], luid[8];
    unsigned luid_mask;
    size_t memory, shared_per_block;
    int registers_per_block, warp_size;
    size_t pitch;
    int threads_per_block, threads_dim[3], grid_size[3];
    size_t constant_memory;
    int major, minor;
    size_t texture_alignment, texture_pitch_alignment;
    int processors, integrated, can_map, textures[30];
};

static int processors(void) {
    switch (from_environment("STUB_SM", 80)) {
    case 75: return 40;
    case 86: return 84;
    case 89: return 58;
    case 90: return 132;
    default: return 108;
    }
}

static int shared_optin(void) {
    switch (from_environment("STUB_SM", 80)) {
    case 75: return 65536;
    case 86:
    case 89:
    case 120: return 101376;
    case 90: return 232448;
    default: return 166912;
    }
}

EXPORT int cudaGetDeviceCount(int *count) {
    *count = 1;
    return driver_status();
}
EXPORT int cudaGetDevice(int *device) {
    *device = 0;
    return driver_status();
}
EXPORT int cudaSetDevice(void) { return driver_status(); }
EXPORT int cudaGetDeviceProperties(struct properties *found) {
    memset(found, 0, 1008);
    strcpy(found->name, "stub");
    found->memory = from_environment("STUB_MEMORY", 80000000000);
    found->shared_per_block = 49152;
    found->registers_per_block = 65536;
    found->warp_size = 32;
    found->threads_per_block = 1024;
    found->threads_dim[0] = found->threads_dim[1] = 1024;
    found->threads_dim[2] = 64;
    found->grid_size[0] = 2147483647;
    found->grid_size[1] = found->grid_size[2] = 65535;
    found->constant_memory = 65536;
    found->major = from_environment("STUB_SM", 80) / 10;
    found->minor = from_environment("STUB_SM", 80) % 10;
    found->processors = processors();
    return 0;
}
EXPORT int cudaDeviceGetAttribute(int *value, int attribute) {
    switch (attribute) {
    case 10: *value = 32; break;
    case 16: *value = processors(); break;
    case 75: *value = from_environment("STUB_SM", 80) / 10; break;
    case 76: *value = from_environment("STUB_SM", 80) % 10; break;
    case 97: *value = shared_optin(); break;
    default: *value = 0;
    }
    return 0;
}
EXPORT int cudaDriverGetVersion(int *version) {
    *version = from_environment("STUB_DRIVER", 13000);
    return 0;
}
EXPORT int cudaRuntimeGetVersion(int *version) {
    *version = 13000;
    return 0;
}
EXPORT int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks) {
    *blocks = 1;
    return 0;
}
EXPORT int cudaFuncGetAttributes(void *attributes) {
    memset(attributes, 0, 64);
    return 0;
}
EXPORT int cudaPointerGetAttributes(void *attributes) {
    memset(attributes, 0, 24);
    return 0;
}
EXPORT int cudaStreamIsCapturing(void *stream, int *status) {
    (void)stream;
    *status = 0;
    return 0;
}
EXPORT int cudaEventElapsedTime(float *ms) {
    *ms = 0;
    return 0;
}
EXPORT int cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned version,
                                            unsigned long long flags, int *status) {
    (void)symbol, (void)version, (void)flags;
    *function = NULL;
    if (status)
        *status = 1;
    return 0;
}
static int some_handle(void **handle) {
    static char object[64];
    *handle = object;
    return 0;
}
EXPORT int cudaStreamCreate(void **stream) { return some_handle(stream); }
EXPORT int cudaStreamCreateWithFlags(void **stream) { return some_handle(stream); }
EXPORT int cudaEventCreate(void **event) { return some_handle(event); }
EXPORT int cudaEventCreateWithFlags(void **event) { return some_handle(event); }
EXPORT int cudaMemPoolCreate(void **pool) { return some_handle(pool); }
/* The texts of CUDA 13. */
EXPORT const char *cudaGetErrorString(int status) {
    switch (status) {
    case 2: return "out of memory";
    case 35: return "CUDA driver version is insufficient for CUDA runtime version";
    case 209: return "no kernel image is available for execution on the device";
    default: return "no error";
    }
}
EXPORT const char *cudaGetErrorName(int status) {
    switch (status) {
    case 2: return "cudaErrorMemoryAllocation";
    case 35: return "cudaErrorInsufficientDriver";
    case 209: return "cudaErrorNoKernelImageForDevice";
    default: return "cudaSuccess";
    }
}
#else
extern int stub_launch(const char *kernel);
static int some_handle(void **handle) {
    static char object[1024];
    *handle = object;
    return 0;
}
#endif

/* A call that launches one kernel. */
#define LAUNCHES(name)                                                                                                 \
    EXPORT int name(void) { return stub_launch(#name); }

#ifdef LIBRARY_cublas
EXPORT int cublasCreate_v2(void **handle) { return some_handle(handle); }
EXPORT const char *cublasGetStatusName(void) { return "CUBLAS_STATUS_SUCCESS"; }
EXPORT const char *cublasGetStatusString(void) { return "success"; }
LAUNCHES(cublasGemmEx)
LAUNCHES(cublasGemmBatchedEx)
LAUNCHES(cublasGemmStridedBatchedEx)
LAUNCHES(cublasSgemm_v2)
LAUNCHES(cublasSgemmBatched)
LAUNCHES(cublasSgemmStridedBatched)
LAUNCHES(cublasSgeam)
LAUNCHES(cublasScopy_v2)
LAUNCHES(cublasSscal_v2)
#endif

#ifdef LIBRARY_cublasLt
EXPORT int cublasLtCreate(void **handle) { return some_handle(handle); }
EXPORT int cublasLtMatmulDescCreate(void **handle) { return some_handle(handle); }
EXPORT int cublasLtMatrixLayoutCreate(void **handle) { return some_handle(handle); }
EXPORT int cublasLtMatmulPreferenceCreate(void **handle) { return some_handle(handle); }
EXPORT int cublasLtMatrixTransformDescCreate(void **handle) { return some_handle(handle); }
EXPORT int cublasLtMatmulAlgoGetHeuristic(void *handle, void *description, void *a, void *b, void *c, void *d,
                                          void *preference, int requested, void *results, int *found) {
    (void)handle, (void)description, (void)a, (void)b, (void)c, (void)d, (void)preference, (void)requested;
    memset(results, 0, 96); /* one algorithm without a workspace; status success */
    *found = 1;
    return 0;
}
LAUNCHES(cublasLtMatmul)
LAUNCHES(cublasLtMatrixTransform)
#endif

#ifdef LIBRARY_cudnn
EXPORT int cudnnCreate(void **handle) { return some_handle(handle); }
EXPORT int cudnnCreateTensorDescriptor(void **handle) { return some_handle(handle); }
EXPORT int cudnnCreateReduceTensorDescriptor(void **handle) { return some_handle(handle); }
EXPORT int cudnnCreateFilterDescriptor(void **handle) { return some_handle(handle); }
EXPORT int cudnnCreateActivationDescriptor(void **handle) { return some_handle(handle); }
EXPORT int cudnnCreateConvolutionDescriptor(void **handle) { return some_handle(handle); }
EXPORT int cudnnGetReductionIndicesSize(void *handle, void *reduction, void *a, void *c, size_t *bytes) {
    (void)handle, (void)reduction, (void)a, (void)c;
    *bytes = 0;
    return 0;
}
EXPORT int cudnnGetReductionWorkspaceSize(void *handle, void *reduction, void *a, void *c, size_t *bytes) {
    (void)handle, (void)reduction, (void)a, (void)c;
    *bytes = 0;
    return 0;
}
LAUNCHES(cudnnReduceTensor)
LAUNCHES(cudnnBatchNormalizationForwardInference)
LAUNCHES(cudnnBatchNormalizationForwardTraining)
LAUNCHES(cudnnAddTensor)
#endif

#ifdef LIBRARY_cuda
/* Attention kernels of TensorRT that the wheel contains are loaded as modules; a function is known by its name. */
EXPORT int cuModuleLoadData(void **module) { return some_handle(module); }
EXPORT int cuModuleGetFunction(const char **function, void *module, const char *name) {
    (void)module;
    *function = strdup(name);
    return 0;
}
extern int cudaMemGetInfo(size_t *available, size_t *total);
EXPORT int cuInit(void) { return 0; }
EXPORT int cuDriverGetVersion(int *version) {
    *version = from_environment("STUB_DRIVER", 13000);
    return 0;
}
EXPORT int cuDeviceGetCount(int *count) {
    *count = 1;
    return 0;
}
EXPORT int cuDeviceGet(int *device) {
    *device = 0;
    return 0;
}
EXPORT int cuDeviceGetName(char *name, int size) {
    snprintf(name, size, "stub");
    return 0;
}
EXPORT int cuDeviceGetAttribute(int *value, int attribute) {
    long sm = from_environment("STUB_SM", 80);
    *value = attribute == 75 ? sm / 10 : attribute == 76 ? sm % 10 : 0;
    return 0;
}
EXPORT int cuDevicePrimaryCtxRetain(void **context) { return some_handle(context); }
EXPORT int cuCtxPopCurrent_v2(void **context) { return some_handle(context); }
EXPORT int cuMemGetInfo_v2(size_t *available, size_t *total) { return cudaMemGetInfo(available, total); }
EXPORT int cuCtxPushCurrent_v2(void) { return 0; }
EXPORT int cuDevicePrimaryCtxRelease_v2(void) { return 0; }
EXPORT int cuLaunchKernel(const char *function) { return stub_launch(function); }
EXPORT int cuLaunchCooperativeKernel(const char *function) { return stub_launch(function); }
#endif
