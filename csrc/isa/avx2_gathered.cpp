#define INFINITYPOOL_ISA avx2
#include "gathered.inl"
