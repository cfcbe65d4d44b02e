/* The symbols that TensorRT's Python bindings look for when they are imported, and nothing else.
 *
 * They let the real bindings be imported without the gigabytes behind them, to see which classes,
 * methods and enumerators a version has. Calling any of them ends the process.
 */
#include <stdio.h>
#include <stdlib.h>

#define SYMBOL(name)                                              \
  __attribute__((visibility("default"))) void name(void) {        \
    fprintf(stderr, "%s: only the bindings are here\n", __func__); \
    abort();                                                      \
  }

SYMBOL(createInferBuilder_INTERNAL)
SYMBOL(createInferRefitter_INTERNAL)
SYMBOL(createInferRuntime_INTERNAL)
SYMBOL(createNvOnnxParser_INTERNAL)
SYMBOL(createNvOnnxParserRefitter_INTERNAL)
SYMBOL(getBuilderPluginRegistry)
SYMBOL(getNvOnnxParserVersion)
SYMBOL(getPluginRegistry)
SYMBOL(initLibNvInferPlugins)

/* The UFF and Caffe parsers of TensorRT 8, by their C++ names. */
SYMBOL(_ZN11nvuffparser15createUffParserEv)
SYMBOL(_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi)
SYMBOL(_ZN14nvcaffeparser117createCaffeParserEv)
SYMBOL(_ZN14nvcaffeparser123shutdownProtobufLibraryEv)
