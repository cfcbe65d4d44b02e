/* What the emulated driver keeps: contexts, objects, and the work that waits on streams. */
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

/* Objects */

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

/* Work on streams */

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
