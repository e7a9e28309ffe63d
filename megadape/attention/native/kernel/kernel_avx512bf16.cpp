// The kernels for AVX-512 with products of bfloat16.
#include "vector_avx512.h"

#include "kernels.h"
#include "number_bfloat16.h"

const Kernels kernels_avx512bf16 = {forward<Float32>, backward<Float32>, forward<BFloat16>, backward<BFloat16>};
