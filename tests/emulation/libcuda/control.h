/* What tests ask and set; `control.py` calls it. */

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
