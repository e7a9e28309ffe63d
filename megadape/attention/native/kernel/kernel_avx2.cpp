// The kernels for AVX2 with FMA.
#include "vector_avx2.h"

#include "kernels.h"

const Kernels kernels_avx2 = {forward<Float32>, backward<Float32>, nullptr, nullptr};
