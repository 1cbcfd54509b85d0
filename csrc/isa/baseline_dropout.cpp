#define INFINITYPOOL_ISA baseline
#include "dropout.inl"
