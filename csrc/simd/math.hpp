// Powers and roots of runs, the same bits for every instruction set.

// x[i] = x[i]^p. Whole exponents multiply; others are the C library's.
template <class A>
void power_run(A* __restrict x, Index n, double p) {
  if (p == 1) return;
  if (p == 2) {
    for (Index i = 0; i < n; ++i) x[i] = x[i] * x[i];
  } else if (p == 0.5) {
    for (Index i = 0; i < n; ++i) x[i] = __builtin_sqrt(x[i]);
  } else {
    for (Index i = 0; i < n; ++i) x[i] = A(__builtin_pow(double(x[i]), p));
  }
}

// x[i] = sign(x[i]) |x[i]|^p.
template <class A>
void signed_power_run(A* __restrict x, Index n, double p) {
  A sign[256];
  for (Index i = 0; i < n; i += 256, x += 256) {
    const Index m = n - i < 256 ? n - i : 256;
    for (Index j = 0; j < m; ++j) {
      sign[j] = x[j] < 0 ? A(-1) : A(1);
      x[j] *= sign[j];
    }
    power_run(x, m, p);
    for (Index j = 0; j < m; ++j) x[j] *= sign[j];
  }
}
