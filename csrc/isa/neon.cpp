#define INFINITYPOOL_ISA neon
#include "kernels.inl"
