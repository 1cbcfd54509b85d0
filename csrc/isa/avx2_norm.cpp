#define INFINITYPOOL_ISA avx2
#include "norm.inl"
