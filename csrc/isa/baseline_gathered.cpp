#define INFINITYPOOL_ISA baseline
#include "gathered.inl"
