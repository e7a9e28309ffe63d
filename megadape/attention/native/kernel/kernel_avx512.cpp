// The kernels for AVX-512.
#include "vector_avx512.h"

#include "kernels.h"

const Kernels kernels_avx512 = {forward<Float32>, backward<Float32>, nullptr, nullptr};
