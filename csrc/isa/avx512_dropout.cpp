#define INFINITYPOOL_ISA avx512
#include "dropout.inl"
