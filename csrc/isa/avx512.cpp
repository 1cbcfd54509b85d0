#define INFINITYPOOL_ISA avx512
#include "kernels.inl"
