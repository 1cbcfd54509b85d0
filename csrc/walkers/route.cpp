#include "route.hpp"
namespace infinitypool {
Route::Route(const PoolArguments&) {}
void Route::run(const void*, const void*, void*) const {}
}
