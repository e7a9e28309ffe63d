// The kernels for any processor.
#include "vector_portable.h"

#include "kernels.h"

const Kernels kernels_portable = {forward<Float32>, backward<Float32>, nullptr, nullptr};
