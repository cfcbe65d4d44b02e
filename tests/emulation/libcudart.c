/* The part of the CUDA runtime that says whether CUDA can be used, over the driver library.
 *
 * Like NVIDIA's it refuses a driver of an older major version with error 35.
 */
#include <dlfcn.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

static int version(void) {
  const char *text = getenv("EMULATED_CUDA_RT_VERSION");
  return text ? atoi(text) : 13000;
}

EXPORT int cudaRuntimeGetVersion(int *value) {
  *value = version();
  return 0;
}

EXPORT int cudaGetDeviceCount(int *count) {
  void *driver = dlopen("libcuda.so.1", RTLD_LAZY);
  int supported = 0, code = 0;
  *count = 0;
  if (!driver) return 35;
  ((int (*)(int *))dlsym(driver, "cuDriverGetVersion"))(&supported);
  if (supported / 1000 < version() / 1000) return 35;
  code = ((int (*)(unsigned))dlsym(driver, "cuInit"))(0);
  return code ? code : ((int (*)(int *))dlsym(driver, "cuDeviceGetCount"))(count);
}

EXPORT const char *cudaGetErrorName(int code) {
  return code == 35 ? "cudaErrorInsufficientDriver" : code == 100 ? "cudaErrorNoDevice" : "unknown";
}
