#define INFINITYPOOL_ISA baseline
#include "norm.inl"
