#define INFINITYPOOL_ISA neon
#include "gathered.inl"
