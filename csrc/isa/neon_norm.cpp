#define INFINITYPOOL_ISA neon
#include "norm.inl"
