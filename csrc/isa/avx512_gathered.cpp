#define INFINITYPOOL_ISA avx512
#include "gathered.inl"
