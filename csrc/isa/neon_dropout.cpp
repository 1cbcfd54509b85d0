#define INFINITYPOOL_ISA neon
#include "dropout.inl"
