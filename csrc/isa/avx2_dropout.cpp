#define INFINITYPOOL_ISA avx2
#include "dropout.inl"
