// The library's entry points: which instruction sets there are, and a call to the kernels of one.
//
// Each set is a copy of the same kernels, compiled for it (kernel_*.cpp). This file is compiled for any processor, so
// that asking is safe everywhere.
#include "interface.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

struct InstructionSet {
  const char *name;
  const Kernels *kernels;
  bool (*supported)();
};

#ifdef __x86_64__
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

// best first
const InstructionSet sets[] = {
#ifdef __x86_64__
    {"avx512bf16", &kernels_avx512bf16, has_avx512bf16},
    {"avx512", &kernels_avx512, has_avx512},
    {"avx2", &kernels_avx2, has_avx2},
#endif
    {"portable", &kernels_portable, [] { return true; }},
};

}  // namespace

EXPORT int megadape_native_abi() { return MEGADAPE_NATIVE_ABI; }

EXPORT int megadape_native_isa_count() { return sizeof sets / sizeof sets[0]; }

EXPORT const char *megadape_native_isa_name(int isa) { return sets[isa].name; }

EXPORT int megadape_native_isa_supported(int isa) { return sets[isa].supported(); }

EXPORT int megadape_native_has_bfloat16(int isa) { return sets[isa].kernels->forward_bfloat16 != nullptr; }

EXPORT int megadape_native_forward(int isa, int bfloat16, const Problem *problem) {
  const Kernels &kernels = *sets[isa].kernels;
  return bfloat16 ? kernels.forward_bfloat16(problem) : kernels.forward(problem);
}

EXPORT int megadape_native_backward(int isa, int bfloat16, const Problem *problem) {
  const Kernels &kernels = *sets[isa].kernels;
  return bfloat16 ? kernels.backward_bfloat16(problem) : kernels.backward(problem);
}
