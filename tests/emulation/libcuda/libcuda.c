/* A libcuda.so.1 whose device memory is host memory: the emulated device of the tests.
 *
 * What the project calls behaves as NVIDIA documents it: a primary context per device with a
 * stack per thread, streams whose work happens when something waits for it, events, page-locked
 * and mapped host memory, graph capture. Every other symbol that pycuda binds exists and returns
 * CUDA_ERROR_NOT_SUPPORTED. Nothing here computes: a kernel is a host function on a stream.
 *
 * The environment describes the device (see `settings` in state.h); control.h lets a test
 * inject failures, count what is alive and read what was called.
 */
#include "state.h"

#include "control.h"
#include "missing.h"

/* Initialisation, devices, contexts */

EXPORT int cuInit(unsigned flags) {
  LOCKED;
  read_settings();
  if (flags) return INVALID_VALUE;
  if (settings.init_error) return settings.init_error;
  if (!settings.devices) return NO_DEVICE;
  initialized = 1;
  return SUCCESS;
}

EXPORT int cuDriverGetVersion(int *version) {
  LOCKED;
  read_settings();
  *version = settings.driver_version;
  return SUCCESS;
}

EXPORT int cuGetErrorName(int code, const char **name) {
  for (size_t i = 0; i < sizeof error_names / sizeof *error_names; i++)
    if (error_names[i].code == code) {
      *name = error_names[i].name;
      return SUCCESS;
    }
  *name = NULL;
  return INVALID_VALUE;
}

EXPORT int cuGetErrorString(int code, const char **text) { return cuGetErrorName(code, text); }

EXPORT int cuDeviceGetCount(int *count) {
  BEGIN("cuDeviceGetCount", 0);
  *count = settings.devices;
  return SUCCESS;
}

EXPORT int cuDeviceGet(int *device, int ordinal) {
  BEGIN("cuDeviceGet", 0);
  if (ordinal < 0 || ordinal >= settings.devices) return INVALID_DEVICE;
  *device = ordinal;
  return SUCCESS;
}

EXPORT int cuDeviceGetName(char *name, int length, int device) {
  BEGIN("cuDeviceGetName", 0);
  (void)device;
  snprintf(name, (size_t)length, "%s", settings.name);
  return SUCCESS;
}

EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  BEGIN("cuDeviceTotalMem", 0);
  (void)device;
  *bytes = settings.memory;
  return SUCCESS;
}

EXPORT int cuDeviceComputeCapability(int *major, int *minor, int device) {
  BEGIN("cuDeviceComputeCapability", 0);
  (void)device;
  *major = settings.major;
  *minor = settings.minor;
  return SUCCESS;
}

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
  BEGIN("cuDeviceGetAttribute", 0);
  (void)device;
  switch (attribute) {
    case 18: *value = settings.integrated; break;
    case 19: *value = settings.map_host; break;
    case 41: *value = 1; break; /* UNIFIED_ADDRESSING */
    case 75: *value = settings.major; break;
    case 76: *value = settings.minor; break;
    default: *value = 0;
  }
  return SUCCESS;
}

EXPORT int cuDevicePrimaryCtxRetain(Context **context, int device) {
  BEGIN("cuDevicePrimaryCtxRetain", 0);
  if (device < 0 || device >= settings.devices || device >= 8) return INVALID_DEVICE;
  *context = &contexts[device];
  (*context)->device = device;
  if ((*context)->retained++ == 0) (*context)->failed = SUCCESS;
  return SUCCESS;
}

EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
  BEGIN("cuDevicePrimaryCtxRelease", 0);
  if (device < 0 || device >= 8 || !contexts[device].retained) return INVALID_CONTEXT;
  if (--contexts[device].retained) return SUCCESS;
  for (Object *object = objects, *next; object; object = next) {
    next = object->next;
    if (object->context == &contexts[device]) {
      abandoned++;
      destroy(object);
    }
  }
  return SUCCESS;
}

EXPORT int cuCtxPushCurrent_v2(Context *context) {
  BEGIN("cuCtxPushCurrent", 0);
  if (!context) return INVALID_CONTEXT;
  if (!context->retained) return CONTEXT_IS_DESTROYED;
  if (depth == sizeof stack / sizeof *stack) return INVALID_VALUE;
  stack[depth++] = context;
  return SUCCESS;
}

EXPORT int cuCtxPopCurrent_v2(Context **context) {
  BEGIN("cuCtxPopCurrent", 0);
  if (!depth) return INVALID_CONTEXT;
  depth--;
  if (context) *context = stack[depth];
  return SUCCESS;
}

EXPORT int cuCtxGetCurrent(Context **context) {
  BEGIN("cuCtxGetCurrent", 0);
  *context = depth ? stack[depth - 1] : NULL;
  return SUCCESS;
}

EXPORT int cuCtxGetDevice(int *device) {
  BEGIN("cuCtxGetDevice", 1);
  *device = stack[depth - 1]->device;
  return SUCCESS;
}

/* Memory */

EXPORT int cuMemGetInfo_v2(size_t *unused, size_t *total) {
  BEGIN("cuMemGetInfo", 1);
  *unused = settings.memory - live_bytes;
  *total = settings.memory;
  return SUCCESS;
}

EXPORT int cuMemAlloc_v2(uintptr_t *address, size_t size) {
  BEGIN("cuMemAlloc", 1);
  if (!size) return INVALID_VALUE;
  int forbidden = forbidden_while_capturing();
  if (forbidden) return forbidden;
  if (size > settings.memory - live_bytes) return OUT_OF_MEMORY;
  void *memory = NULL;
  if (posix_memalign(&memory, 256, size)) return OUT_OF_MEMORY;
  memset(memory, 0xA5, size); /* device memory begins with anything */
  Object *object = create(DEVICE_MEMORY);
  object->memory = memory;
  object->size = size;
  live_bytes += size;
  *address = (uintptr_t)memory;
  return SUCCESS;
}

static int free_memory(Kind kind, const void *address) {
  for (Object *object = objects; object; object = object->next)
    if (object->kind == kind && object->memory == address) {
      destroy(object);
      return SUCCESS;
    }
  return INVALID_VALUE;
}

EXPORT int cuMemFree_v2(uintptr_t address) {
  BEGIN("cuMemFree", 1);
  int forbidden = forbidden_while_capturing();
  return forbidden ? forbidden : free_memory(DEVICE_MEMORY, (void *)address);
}

EXPORT int cuMemHostAlloc(void **address, size_t size, unsigned flags) {
  BEGIN("cuMemHostAlloc", 1);
  if (!size) return INVALID_VALUE;
  int forbidden = forbidden_while_capturing();
  if (forbidden) return forbidden;
  if (size > settings.memory - live_bytes) return OUT_OF_MEMORY;
  /* Mapped twice, so that the device sees mapped memory at another address. */
  int file = memfd_create("page-locked", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, (off_t)size)) return OUT_OF_MEMORY;
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  void *alias = flags & 2 ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : NULL;
  close(file);
  if (memory == MAP_FAILED || alias == MAP_FAILED) return OUT_OF_MEMORY;
  memset(memory, 0xA5, size);
  Object *object = create(HOST_MEMORY);
  object->memory = memory;
  object->alias = alias;
  object->size = size;
  object->flags = flags;
  live_bytes += size;
  *address = memory;
  return SUCCESS;
}

EXPORT int cuMemFreeHost(void *address) {
  BEGIN("cuMemFreeHost", 1);
  return free_memory(HOST_MEMORY, address);
}

EXPORT int cuMemHostGetDevicePointer_v2(uintptr_t *device, void *address, unsigned flags) {
  BEGIN("cuMemHostGetDevicePointer", 1);
  (void)flags;
  for (Object *object = objects; object; object = object->next)
    if (object->kind == HOST_MEMORY && object->memory == address && object->alias) {
      *device = (uintptr_t)object->alias;
      return SUCCESS;
    }
  return INVALID_VALUE;
}

EXPORT int cuMemHostGetFlags(unsigned *flags, void *address) {
  BEGIN("cuMemHostGetFlags", 1);
  for (Object *object = objects; object; object = object->next)
    if (object->kind == HOST_MEMORY && object->memory == address) {
      *flags = object->flags;
      return SUCCESS;
    }
  return INVALID_VALUE;
}

/* Page-locked memory is read and written when the stream gets there, any other at once. */
static int copy(void *handle, Operation wanted, const void *host) {
  Object *stream = find(STREAM, handle);
  if (is_page_locked(host, wanted.size)) wanted.host = host;
  int code = put(handle, wanted);
  if (!code && !stream->capture && !wanted.host) work_off(stream, NULL);
  return code;
}

EXPORT int cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t size, void *stream) {
  BEGIN("cuMemcpyHtoDAsync", 1);
  if (!is_device_memory((void *)to, size)) return INVALID_VALUE;
  Operation wanted = {
      .work = COPY, .to = (void *)to, .from = from, .size = size, .device = (void *)to};
  return copy(stream, wanted, from);
}

EXPORT int cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t size, void *stream) {
  BEGIN("cuMemcpyDtoHAsync", 1);
  if (!is_device_memory((void *)from, size)) return INVALID_VALUE;
  Operation wanted = {
      .work = COPY, .to = to, .from = (void *)from, .size = size, .device = (void *)from};
  return copy(stream, wanted, to);
}

EXPORT int cuMemcpyHtoD_v2(uintptr_t to, const void *from, size_t size) {
  BEGIN("cuMemcpyHtoD", 1);
  if (!is_device_memory((void *)to, size)) return INVALID_VALUE;
  memcpy((void *)to, from, size);
  return SUCCESS;
}

EXPORT int cuMemcpyDtoH_v2(void *to, uintptr_t from, size_t size) {
  BEGIN("cuMemcpyDtoH", 1);
  if (!is_device_memory((void *)from, size)) return INVALID_VALUE;
  memcpy(to, (void *)from, size);
  return SUCCESS;
}

/* Streams, events, host functions */

EXPORT int cuStreamCreate(Object **stream, unsigned flags) {
  BEGIN("cuStreamCreate", 1);
  *stream = create(STREAM);
  (*stream)->flags = flags;
  return SUCCESS;
}

EXPORT int cuStreamSynchronize(void *handle) {
  BEGIN("cuStreamSynchronize", 1);
  Object *stream = find(STREAM, handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) {
    stream->capture_failed = 1;
    return CAPTURE_UNSUPPORTED;
  }
  work_off(stream, NULL);
  return current_error();
}

EXPORT int cuStreamQuery(void *handle) {
  BEGIN("cuStreamQuery", 1);
  Object *stream = find(STREAM, handle);
  if (!stream) return INVALID_HANDLE;
  return stream->first ? NOT_READY : SUCCESS;
}

EXPORT int cuStreamDestroy_v2(void *handle) {
  BEGIN("cuStreamDestroy", 1);
  Object *stream = find(STREAM, handle);
  if (!stream) return INVALID_HANDLE;
  work_off(stream, NULL);
  destroy(stream);
  return SUCCESS;
}

EXPORT int cuEventCreate(Object **event, unsigned flags) {
  BEGIN("cuEventCreate", 1);
  *event = create(EVENT);
  (*event)->flags = flags;
  return SUCCESS;
}

EXPORT int cuEventRecord(void *handle, void *stream) {
  BEGIN("cuEventRecord", 1);
  Object *event = find(EVENT, handle);
  if (!event) return INVALID_HANDLE;
  return put(stream, (Operation){.work = RECORD, .event = event});
}

EXPORT int cuEventSynchronize(void *handle) {
  BEGIN("cuEventSynchronize", 1);
  Object *event = find(EVENT, handle);
  if (!event) return INVALID_HANDLE;
  if (event->pending && find(STREAM, event->stream)) work_off(event->stream, event);
  return current_error();
}

EXPORT int cuEventQuery(void *handle) {
  BEGIN("cuEventQuery", 1);
  Object *event = find(EVENT, handle);
  if (!event) return INVALID_HANDLE;
  return event->pending ? NOT_READY : SUCCESS;
}

EXPORT int cuEventElapsedTime_v2(float *milliseconds, void *first, void *second) {
  BEGIN("cuEventElapsedTime", 1);
  Object *start = find(EVENT, first), *end = find(EVENT, second);
  if (!start || !end || !start->stream || !end->stream) return INVALID_HANDLE;
  if (!start->happened || !end->happened) return NOT_READY;
  *milliseconds = (float)((end->time.tv_sec - start->time.tv_sec) * 1e3 +
                          (double)(end->time.tv_nsec - start->time.tv_nsec) / 1e6);
  return SUCCESS;
}

EXPORT int cuEventElapsedTime(float *milliseconds, void *first, void *second) {
  return cuEventElapsedTime_v2(milliseconds, first, second);
}

EXPORT int cuEventDestroy_v2(void *handle) {
  BEGIN("cuEventDestroy", 1);
  Object *event = find(EVENT, handle);
  if (!event) return INVALID_HANDLE;
  destroy(event);
  return SUCCESS;
}

EXPORT int cuStreamWaitEvent(void *handle, void *waited, unsigned flags) {
  BEGIN("cuStreamWaitEvent", 1);
  (void)flags;
  Object *stream = find(STREAM, handle), *event = find(EVENT, waited);
  if (!stream || !event) return INVALID_HANDLE;
  if (event->pending && find(STREAM, event->stream)) work_off(event->stream, event);
  return SUCCESS;
}

EXPORT int cuLaunchHostFunc(void *stream, HostFunction function, void *data) {
  BEGIN("cuLaunchHostFunc", 1);
  return put(stream, (Operation){.work = CALL, .function = function, .data = data});
}

/* Graphs */

EXPORT int cuStreamBeginCapture_v2(void *handle, int mode) {
  BEGIN("cuStreamBeginCapture", 1);
  (void)mode;
  Object *stream = find(STREAM, handle);
  if (!stream) return INVALID_HANDLE;
  if (stream->capture) return INVALID_VALUE;
  stream->capture = create(GRAPH);
  stream->capture_failed = 0;
  stream->capturer = pthread_self();
  return SUCCESS;
}

EXPORT int cuStreamEndCapture(void *handle, Object **graph) {
  LOCKED;
  int code = enter("cuStreamEndCapture", 1);
  Object *stream = find(STREAM, handle);
  if (!stream) return INVALID_HANDLE;
  if (!stream->capture) return INVALID_VALUE;
  *graph = stream->capture; /* the capture ends, whatever comes of it */
  stream->capture = NULL;
  if (!code && stream->capture_failed) code = CAPTURE_INVALIDATED;
  stream->capture_failed = 0;
  if (code) {
    destroy(*graph);
    *graph = NULL;
  }
  return code;
}

EXPORT int cuGraphInstantiateWithFlags(Object **executable, void *handle, unsigned long long flags) {
  BEGIN("cuGraphInstantiateWithFlags", 1);
  (void)flags;
  Object *graph = find(GRAPH, handle);
  if (!graph) return INVALID_HANDLE;
  *executable = create(EXECUTABLE);
  for (Operation *operation = graph->first; operation; operation = operation->next) {
    Operation *same = malloc(sizeof *same);
    *same = *operation;
    append(*executable, same);
  }
  return SUCCESS;
}

EXPORT int cuGraphLaunch(void *handle, void *stream) {
  BEGIN("cuGraphLaunch", 1);
  Object *executable = find(EXECUTABLE, handle);
  if (!executable) return INVALID_HANDLE;
  for (Operation *operation = executable->first; operation; operation = operation->next) {
    int code = put(stream, *operation);
    if (code) return code;
  }
  return SUCCESS;
}

static int destroy_graph(Kind kind, void *handle) {
  Object *object = find(kind, handle);
  if (!object) return INVALID_HANDLE;
  destroy(object);
  return SUCCESS;
}

EXPORT int cuGraphDestroy(void *handle) {
  BEGIN("cuGraphDestroy", 1);
  return destroy_graph(GRAPH, handle);
}

EXPORT int cuGraphExecDestroy(void *handle) {
  BEGIN("cuGraphExecDestroy", 1);
  return destroy_graph(EXECUTABLE, handle);
}

/* Finds a function by the name it has in the header, whose newest version is what is called. */
EXPORT int cuGetProcAddress_v2(
    const char *symbol, void **function, int version, uint64_t flags, int *status) {
  (void)flags;
  static void *self;
  if (!self) {
    Dl_info info;
    if (!dladdr((void *)cuInit, &info)) return NOT_FOUND;
    self = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  }
  char name[128];
  *function = NULL;
  int newest = !strcmp(symbol, "cuGetProcAddress") && version < 12000 ? 1 : 4;
  for (; newest >= 1 && !*function; newest--) {
    if (newest > 1) snprintf(name, sizeof name, "%s_v%d", symbol, newest);
    else snprintf(name, sizeof name, "%s", symbol);
    *function = dlsym(self, name);
  }
  if (status) *status = *function ? 0 : 1;
  return *function ? SUCCESS : NOT_FOUND;
}

EXPORT int cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(symbol, function, version, flags, NULL);
}
