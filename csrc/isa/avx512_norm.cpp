#define INFINITYPOOL_ISA avx512
#include "norm.inl"
