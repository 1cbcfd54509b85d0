#define INFINITYPOOL_ISA baseline
#include "kernels.inl"
