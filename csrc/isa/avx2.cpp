#define INFINITYPOOL_ISA avx2
#include "kernels.inl"
