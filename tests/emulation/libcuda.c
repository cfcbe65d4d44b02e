/* A libcuda.so.1 whose device memory is host memory: the emulated device of the tests.
 *
 * What the project calls behaves as NVIDIA documents it: a primary context per device with a
 * stack per thread, streams whose work happens when something waits for it, events, page-locked
 * and mapped host memory, graph capture. Every other symbol that pycuda binds exists and returns
 * CUDA_ERROR_NOT_SUPPORTED. Nothing here computes: a kernel is a host function on a stream.
 *
 * The environment describes the device (see `settings`); the functions named emulated_* at the
 * end let a test inject failures, count what is alive and read what was called.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum {
  SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
  INVALID_DEVICE = 101, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500,
  NOT_READY = 600, ILLEGAL_ADDRESS = 700, CONTEXT_IS_DESTROYED = 709, LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901
};

static const struct { int code; const char *name; } error_names[] = {
  {SUCCESS, "CUDA_SUCCESS"}, {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
  {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"}, {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
  {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"}, {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
  {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"}, {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
  {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"}, {NOT_READY, "CUDA_ERROR_NOT_READY"},
  {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
  {CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED"},
  {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"}, {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},
  {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},
  {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
  {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
  {999, "CUDA_ERROR_UNKNOWN"},
};

/* {{{ state */

typedef enum { DEVICE_MEMORY, HOST_MEMORY, STREAM, EVENT, GRAPH, EXECUTABLE, KINDS } Kind;
typedef enum { COPY, RECORD, CALL } Work;
typedef void (*HostFunction)(void *);

typedef struct Context {
  int device, retained;
  int failed; /* a failed kernel breaks its context for good */
} Context;

typedef struct Operation {
  Work work;
  void *to;
  const void *from;
  size_t size;
  const void *device, *host; /* which is which; host: only if page-locked */
  struct Object *event;
  HostFunction function;
  void *data;
  struct Operation *next;
} Operation;

typedef struct Object {
  Kind kind;
  Context *context;
  void *memory, *alias; /* memory; alias: where the device sees mapped host memory */
  size_t size;
  Operation *first, *last; /* of a stream, graph or executable graph */
  unsigned flags;
  struct Object *capture; /* stream: the graph that records it */
  int capture_failed;
  pthread_t capturer;
  struct Object *stream; /* event: where it was recorded */
  int pending, happened;
  struct timespec time;
  struct Object *next;
} Object;

static struct {
  int ready, devices, major, minor, integrated, map_host, driver_version, init_error;
  size_t memory;
  const char *name;
} settings;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int initialized;
static Context contexts[8];
static Object *objects;
static long live[KINDS], created[KINDS], abandoned;
static size_t live_bytes;
static char trace[1 << 16];
static struct { char function[64]; int after, times, code; } failures[16];

static __thread Context *stack[32];
static __thread int depth;

static int number(const char *name, int fallback) {
  const char *text = getenv(name);
  return text ? atoi(text) : fallback;
}

static void read_settings(void) {
  if (settings.ready) return;
  settings.ready = 1;
  settings.devices = number("EMULATED_CUDA_DEVICES", 1);
  settings.major = number("EMULATED_CUDA_MAJOR", 8);
  settings.minor = number("EMULATED_CUDA_MINOR", 7);
  settings.integrated = number("EMULATED_CUDA_INTEGRATED", 0);
  settings.map_host = number("EMULATED_CUDA_MAP_HOST", 1);
  settings.driver_version = number("EMULATED_CUDA_DRIVER_VERSION", 13000);
  settings.init_error = number("EMULATED_CUDA_INIT_ERROR", SUCCESS);
  settings.memory = (size_t)number("EMULATED_CUDA_MEMORY_MIB", 4096) << 20;
  settings.name = getenv("EMULATED_CUDA_NAME") ? getenv("EMULATED_CUDA_NAME") : "Emulated GPU";
}

static void unlock(int *unused) {
  (void)unused;
  pthread_mutex_unlock(&mutex);
}

static int injected(const char *function) {
  for (int i = 0; i < 16; i++) {
    if (!failures[i].times || strcmp(failures[i].function, function)) continue;
    if (failures[i].after > 1) {
      failures[i].after--;
      continue;
    }
    failures[i].times--;
    return failures[i].code;
  }
  return SUCCESS;
}

static void note(const char *function) {
  size_t used = strlen(trace), more = strlen(function) + 1;
  if (used + more + 1 > sizeof trace) return;
  memcpy(trace + used, function, more - 1);
  memcpy(trace + used + more - 1, "\n", 2);
}

static int current_error(void) {
  if (!depth) return INVALID_CONTEXT;
  if (!stack[depth - 1]->retained) return CONTEXT_IS_DESTROYED;
  return stack[depth - 1]->failed;
}

static int enter(const char *function, int needs_context) {
  read_settings();
  if (!initialized) return NOT_INITIALIZED;
  note(function);
  int code = needs_context ? current_error() : SUCCESS;
  if (code) return code;
  code = injected(function);
  if (needs_context && (code == ILLEGAL_ADDRESS || code == LAUNCH_FAILED))
    stack[depth - 1]->failed = code;
  return code;
}

#define LOCKED \
  int guard __attribute__((cleanup(unlock), unused)) = pthread_mutex_lock(&mutex)
#define BEGIN(function, needs_context)            \
  LOCKED;                                         \
  int begun = enter(function, needs_context);     \
  if (begun) return begun

/* }}} */

/* {{{ objects */

static Object *create(Kind kind) {
  Object *object = calloc(1, sizeof *object);
  object->kind = kind;
  object->context = stack[depth - 1];
  object->next = objects;
  objects = object;
  live[kind]++;
  created[kind]++;
  return object;
}

static Object *find(Kind kind, const void *handle) {
  for (Object *object = objects; object; object = object->next)
    if (object == handle && object->kind == kind) return object;
  return NULL;
}

static void drop_operations(Object *object) {
  for (Operation *operation = object->first, *next; operation; operation = next) {
    next = operation->next;
    free(operation);
  }
  object->first = object->last = NULL;
}

static void destroy(Object *object) {
  for (Object **link = &objects; *link; link = &(*link)->next)
    if (*link == object) {
      *link = object->next;
      break;
    }
  live[object->kind]--;
  drop_operations(object);
  if (object->kind == DEVICE_MEMORY || object->kind == HOST_MEMORY) live_bytes -= object->size;
  if (object->kind == DEVICE_MEMORY) free(object->memory);
  if (object->kind == HOST_MEMORY) {
    munmap(object->memory, object->size);
    if (object->alias) munmap(object->alias, object->size);
  }
  free(object);
}

static int inside(const void *begin, size_t size, const void *address, size_t wanted) {
  return begin && (const char *)address >= (const char *)begin &&
         (const char *)address + wanted <= (const char *)begin + size;
}

static int is_device_memory(const void *address, size_t size) {
  for (Object *object = objects; object; object = object->next)
    if ((object->kind == DEVICE_MEMORY && inside(object->memory, object->size, address, size)) ||
        (object->kind == HOST_MEMORY && inside(object->alias, object->size, address, size)))
      return 1;
  return 0;
}

static int is_page_locked(const void *address, size_t size) {
  for (Object *object = objects; object; object = object->next)
    if (object->kind == HOST_MEMORY && inside(object->memory, object->size, address, size)) return 1;
  return 0;
}

/* }}} */

/* {{{ work on streams */

static void append(Object *queue, Operation *operation) {
  operation->next = NULL;
  if (queue->last) queue->last->next = operation;
  else queue->first = operation;
  queue->last = operation;
}

/* Does the work of a stream, up to an event if one is given. A host function runs unlocked, since
 * a callback into Python waits for the interpreter. */
static void work_off(Object *stream, Object *until) {
  while (stream->first && !(until && until->happened)) {
    Operation *operation = stream->first;
    stream->first = operation->next;
    if (!stream->first) stream->last = NULL;
    if (operation->work == COPY) {
      if (is_device_memory(operation->device, operation->size) &&
          (!operation->host || is_page_locked(operation->host, operation->size)))
        memcpy(operation->to, operation->from, operation->size);
      else
        stream->context->failed = ILLEGAL_ADDRESS; /* freed too early */
    }
    if (operation->work == RECORD && find(EVENT, operation->event)) {
      clock_gettime(CLOCK_MONOTONIC, &operation->event->time);
      if (--operation->event->pending == 0) operation->event->happened = 1;
    }
    if (operation->work == CALL) {
      pthread_mutex_unlock(&mutex);
      operation->function(operation->data);
      pthread_mutex_lock(&mutex);
    }
    free(operation);
  }
}

/* Puts work on a stream, or in the graph that records the stream. */
static int put(void *handle, Operation wanted) {
  Object *stream = find(STREAM, handle);
  if (!stream) return INVALID_HANDLE; /* the emulated device has no default stream */
  if (stream->capture_failed) return CAPTURE_INVALIDATED;
  Operation *operation = malloc(sizeof *operation);
  *operation = wanted;
  if (stream->capture) {
    append(stream->capture, operation);
  } else {
    append(stream, operation);
    if (wanted.work == RECORD) {
      wanted.event->stream = stream;
      wanted.event->pending++;
      wanted.event->happened = 0;
    }
  }
  return SUCCESS;
}

/* What a thread-local capture forbids on its thread; it breaks the capture. */
static int forbidden_while_capturing(void) {
  int code = SUCCESS;
  for (Object *object = objects; object; object = object->next)
    if (object->kind == STREAM && object->capture && pthread_equal(object->capturer, pthread_self())) {
      object->capture_failed = 1;
      code = CAPTURE_UNSUPPORTED;
    }
  return code;
}

/* }}} */

/* {{{ initialisation, devices, contexts */

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

/* }}} */

/* {{{ memory */

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

/* }}} */

/* {{{ streams, events, host functions */

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

/* }}} */

/* {{{ graphs */

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

/* }}} */

/* {{{ what tests ask and set */

/* Makes calls of a function return `code`: `times` calls, from the `after`-th from now on. */
EXPORT int emulated_fail(const char *function, int after, int times, int code) {
  LOCKED;
  int place = -1;
  for (int i = 15; i >= 0; i--)
    if (!failures[i].times || !strcmp(failures[i].function, function)) place = i;
  if (place < 0) return -1;
  snprintf(failures[place].function, sizeof failures[place].function, "%s", function);
  failures[place].after = after;
  failures[place].times = times;
  failures[place].code = code;
  return 0;
}

EXPORT long emulated_live(int kind) {
  LOCKED;
  return live[kind];
}

EXPORT long emulated_created(int kind) {
  LOCKED;
  return created[kind];
}

EXPORT long emulated_live_bytes(void) {
  LOCKED;
  return (long)live_bytes;
}

/* Objects that were still alive when their context went. */
EXPORT long emulated_abandoned(void) {
  LOCKED;
  return abandoned;
}

EXPORT int emulated_retained(int device) {
  LOCKED;
  return contexts[device].retained;
}

/* How many contexts this thread has pushed and not popped. */
EXPORT int emulated_depth(void) { return depth; }

EXPORT int emulated_is_device_memory(const void *address, size_t size) {
  LOCKED;
  return is_device_memory(address, size);
}

/* A kernel that failed: whatever waits for it, and every call after that, returns `code`. */
EXPORT void emulated_break(int device, int code) {
  LOCKED;
  contexts[device].failed = code;
}

/* Copies the names of the functions called so far, one a line, and forgets them. */
EXPORT void emulated_take_trace(char *into, size_t size) {
  LOCKED;
  snprintf(into, size, "%s", trace);
  trace[0] = 0;
}

/* }}} */

/* {{{ symbols that only have to exist */

#define NOT(function) \
  EXPORT int function(void) { return NOT_SUPPORTED; }

NOT(cuArray3DCreate_v2) NOT(cuArray3DGetDescriptor_v2) NOT(cuArrayCreate_v2) NOT(cuArrayDestroy)
NOT(cuArrayGetDescriptor_v2) NOT(cuCtxAttach) NOT(cuCtxCreate_v4) NOT(cuCtxDetach)
NOT(cuCtxDisablePeerAccess) NOT(cuCtxEnablePeerAccess) NOT(cuCtxGetApiVersion)
NOT(cuCtxGetCacheConfig) NOT(cuCtxGetLimit) NOT(cuCtxGetSharedMemConfig) NOT(cuCtxSetCacheConfig)
NOT(cuCtxSetLimit) NOT(cuCtxSetSharedMemConfig) NOT(cuCtxSynchronize) NOT(cuDeviceCanAccessPeer)
NOT(cuDeviceGetByPCIBusId) NOT(cuDeviceGetPCIBusId) NOT(cuFuncGetAttribute)
NOT(cuFuncSetAttribute) NOT(cuFuncSetBlockShape) NOT(cuFuncSetCacheConfig)
NOT(cuFuncSetSharedSize) NOT(cuIpcCloseMemHandle) NOT(cuIpcGetEventHandle) NOT(cuIpcGetMemHandle)
NOT(cuIpcOpenEventHandle) NOT(cuIpcOpenMemHandle_v2) NOT(cuLaunch) NOT(cuLaunchGrid)
NOT(cuLaunchGridAsync) NOT(cuLaunchKernel) NOT(cuLinkAddData_v2) NOT(cuLinkAddFile_v2)
NOT(cuLinkComplete) NOT(cuLinkCreate_v2) NOT(cuLinkDestroy) NOT(cuMemAllocManaged)
NOT(cuMemAllocPitch_v2) NOT(cuMemGetAddressRange_v2) NOT(cuMemHostRegister_v2)
NOT(cuMemHostUnregister) NOT(cuMemcpy2DAsync_v2) NOT(cuMemcpy2DUnaligned_v2) NOT(cuMemcpy2D_v2)
NOT(cuMemcpy3DAsync_v2) NOT(cuMemcpy3DPeer) NOT(cuMemcpy3DPeerAsync) NOT(cuMemcpy3D_v2)
NOT(cuMemcpyAtoA_v2) NOT(cuMemcpyAtoD_v2) NOT(cuMemcpyAtoH_v2) NOT(cuMemcpyDtoA_v2)
NOT(cuMemcpyDtoDAsync_v2) NOT(cuMemcpyDtoD_v2) NOT(cuMemcpyHtoA_v2) NOT(cuMemcpyPeer)
NOT(cuMemcpyPeerAsync) NOT(cuMemsetD16Async) NOT(cuMemsetD16_v2) NOT(cuMemsetD2D16Async)
NOT(cuMemsetD2D16_v2) NOT(cuMemsetD2D32Async) NOT(cuMemsetD2D32_v2) NOT(cuMemsetD2D8Async)
NOT(cuMemsetD2D8_v2) NOT(cuMemsetD32Async) NOT(cuMemsetD32_v2) NOT(cuMemsetD8Async)
NOT(cuMemsetD8_v2) NOT(cuModuleGetFunction) NOT(cuModuleGetGlobal_v2) NOT(cuModuleGetSurfRef)
NOT(cuModuleGetTexRef) NOT(cuModuleLoad) NOT(cuModuleLoadData) NOT(cuModuleLoadDataEx)
NOT(cuModuleUnload) NOT(cuParamSetSize) NOT(cuParamSetTexRef) NOT(cuParamSetf) NOT(cuParamSeti)
NOT(cuParamSetv) NOT(cuProfilerInitialize) NOT(cuProfilerStart) NOT(cuProfilerStop)
NOT(cuStreamAttachMemAsync) NOT(cuSurfRefGetArray) NOT(cuSurfRefSetArray) NOT(cuTexRefCreate)
NOT(cuTexRefDestroy) NOT(cuTexRefGetAddressMode) NOT(cuTexRefGetAddress_v2) NOT(cuTexRefGetArray)
NOT(cuTexRefGetFilterMode) NOT(cuTexRefGetFlags) NOT(cuTexRefGetFormat)
NOT(cuTexRefSetAddress2D_v3) NOT(cuTexRefSetAddressMode) NOT(cuTexRefSetAddress_v2)
NOT(cuTexRefSetArray) NOT(cuTexRefSetFilterMode) NOT(cuTexRefSetFlags) NOT(cuTexRefSetFormat)
NOT(cuCtxCreate_v2)

/* }}} */

/* Finds a function by the name it has in the header, whose newest version is what is called. */
EXPORT int cuGetProcAddress_v2(
    const char *symbol, void **function, int version, uint64_t flags, int *status) {
  (void)version;
  (void)flags;
  static void *self;
  if (!self) {
    Dl_info info;
    if (!dladdr((void *)cuInit, &info)) return NOT_FOUND;
    self = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  }
  char name[128];
  *function = NULL;
  for (int newest = 4; newest >= 1 && !*function; newest--) {
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
