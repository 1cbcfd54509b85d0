#include <cstring>

#include "call.hpp"

namespace infinitypool {

// One backward call. With m the mean, r = 1 / sqrt(var + eps), w the weight and n the elements of a region:
//   grad x = r w g - r A / n - r^3 B / n (x - m),  A = sum of w g,  B = sum of w g (x - m)
//   grad weight = sum of g (x - m) r,  grad bias = sum of g
// where g is the gradient that comes in, times the activation's derivative. Constant statistics leave r w g alone, a
// root mean square the first and the last term.
class NormBackward {
 public:
  const Norm& norm;
  const Norm::Gradient& call;
  const NormArguments& a = norm.a_;
  const NormGeometry& g = norm.geometry_;
  const NormKernels& k = *norm.k_;
  const void* weight = nullptr;
  const void* bias = nullptr;
  double* sums = nullptr;        // (cells or columns of all groups) x 2
  double* parameters = nullptr;  // where they change along the run: (chunks) x 2 x parameters
  NormPieces pieces{g};
  Index chunk = 1;  // groups that share sums of parameters

  Index elements() const { return g.group_count * g.row_count * g.run; }
  bool activated() const { return a.activation != Activation::none; }
  bool wants_parameters() const { return call.grad_weight || call.grad_bias; }
  bool along() const { return g.along && (weight || wants_parameters() || (bias && activated())); }
  bool needs_sums() const { return !call.given && !call.all; }
  bool measures() const { return wants_parameters() || call.sums || (call.out && needs_sums()); }
  bool writes() const { return call.out; }
  bool sums_across() const { return along() && wants_parameters(); }  // over the groups
  std::size_t state_bytes() const {
    if (!g.columns) return sizeof(Coefficients) + 2 * sizeof(double) * std::size_t(pieces.count);
    return std::size_t(g.run) * (2 * sizeof(double) * std::size_t(pieces.count) + 5 * k.size);
  }
  // Of a group: what shares a region and a parameter, or is a part of that.
  Index cells() const {
    if (!g.columns) return g.row_count * pieces.parts;
    Index n = 0;
    for (const NormSpan& s : g.spans) n += s.parameter_step ? s.count : 1;
    return n;
  }

  NormRegion region(Index at) const {
    const DType dtype = call.given ? a.given_dtype : DType::float64;
    return {a.centered ? read_float(dtype, call.mean, at) : 0, call.var ? read_float(dtype, call.var, at) : 1, a.eps,
            k.size == sizeof(float)};
  }

  struct Coefficients {
    NormRegion region;
    double b = 0, d = 0;
    // From A and B.
    void solve(double sum, double product, double n, bool centered) {
      b = region.rstd * region.rstd * region.rstd * product / n;
      d = centered ? region.rstd * sum / n - b * region.low : 0;
    }
  };

  class Worker {
   public:
    explicit Worker(const NormBackward& c)
        : c_(c), port_(c.k, c.a.dtype, c.norm.direct_),
          to_(c.k, c.a.dtype, c.norm.direct_, c.call.out, c.g.out_step, c.elements()),
          scratch_([this](Scratch& s) {
            for (void** room : {&x_, &g_, &y_}) *room = s.take(NormPort::kRoom, c_.k.size);
            to_.take_room(s);
            if (c_.along() && c_.wants_parameters()) {
              const Index n = 2 * along_count();
              near_ = s.take(n, c_.k.size);
              if (across()) far_ = static_cast<double*>(s.take(n, sizeof(double)));
            }
            if (c_.g.columns) own_ = s.take(3 * c_.g.run, c_.k.size);
          }) {
      const bool alone = c_.g.row_count == 1 && c_.g.groups.size() <= 1 && !c_.g.columns && !c_.activated();
      if (alone && c_.measures() && c_.needs_sums() && !(c_.along() && c_.g.groups_have_parameters()))
        few_ = std::min<Index>(kNormFew, kBlock / 2 / c_.g.run);
    }

    // Sums of parameters along a run, of a chunk of groups or a piece of all: some rows in accumulators, then in
    // double precision.
    void open(Index chunk, bool) {
      if (!near_) return;
      std::memset(near_, 0, std::size_t(2 * along_count()) * c_.k.size);
      if (!across()) far_ = c_.parameters + 2 * chunk * along_count();
      rows_ = 0;
      first_ = true;
    }
    void close(Index piece, bool stores) {
      if (!near_) return;
      flush();
      if (!stores) return;
      const NormPiece p = c_.pieces[piece];
      c_.store(far_, far_ + along_count(), place_of(c_.g.rows, p.first_row).parameter + p.first, p.last - p.first);
    }

    void measure(Index group, Index piece, void* state) {
      const NormPlace base = place_of(c_.g.groups, group);
      if (c_.g.columns) return measure_columns(group, base, piece, state);
      const NormPiece p = c_.pieces[piece];
      const NormRegion region = c_.region(base.region);
      double total[2] = {};
      for (Index row = p.first_row; row < p.last_row; ++row) {
        const NormPlace at = row_of(c_.g, base, row);
        double cell[2] = {};
        for (Index i = p.first; i < p.last; i += kBlock) {
          const Index n = std::min(kBlock, p.last - i);
          const void* x = port_.read(c_.call.x, at.x + i, n, 1, x_);
          const void* g = gradient(region, at, i, n, x);
          double sum[2];
          if (c_.along()) {
            const void* weight = c_.weight ? advance(c_.weight, at.parameter + i, c_.k.size) : nullptr;
            if (weight) c_.k.sums_along(g, x, n, region.center, weight, sum);
            else c_.k.sums(g, x, n, region.center, sum);
            if (near_) {
              const Index to = across() ? i - p.first : at.parameter + i;
              if (to != pending_at_ || n != pending_n_) add_pending();
              pending_at_ = to, pending_n_ = n;
              pending_[pending_count_++] = {g, x, region.center, region.rstd, -region.low * region.rstd};
              // Rows that were converted are gone when the next one is read.
              if (pending_count_ == kNormRows || g == g_ || x == x_) add_pending();
            }
          } else {
            c_.k.sums(g, x, n, region.center, sum);
          }
          cell[0] += sum[0], cell[1] += sum[1] - region.low * sum[0];
        }
        if (c_.along()) {
          total[0] += cell[0], total[1] += cell[1];
          if (near_ && ++rows_ == kRows) flush();
        } else {
          double* to = c_.sums + 2 * (group * c_.cells() + row * c_.pieces.parts + p.first / c_.pieces.part);
          to[0] = cell[0], to[1] = cell[1];
        }
      }
      if (c_.along()) std::memcpy(totals(state) + 2 * piece, total, sizeof total);
    }

    void finish_group(Index group, void* state) {
      const NormPlace base = place_of(c_.g.groups, group);
      if (c_.g.columns) return finish_columns(base, group, state);
      auto& k = *new (state) Coefficients;
      k.region = c_.region(base.region);
      if (c_.call.given) return;
      double sum = 0, product = 0, n = double(c_.g.region_size);
      if (c_.call.all) {
        const double w = c_.k.at(c_.weight, base.parameter, 1);
        sum = w * c_.call.all[base.region], product = w * c_.call.all[c_.g.region_count + base.region];
        n = c_.call.count;
      } else if (c_.along()) {
        for (Index p = 0; p < c_.pieces.count; ++p) sum += totals(state)[2 * p], product += totals(state)[2 * p + 1];
      } else if (c_.measures()) {
        const double* cell = c_.sums + 2 * group * c_.cells();
        for (Index row = 0; row < c_.g.row_count; ++row) {
          const double w = c_.k.at(c_.weight, row_of(c_.g, base, row).parameter, 1);
          for (Index i = 0; i < c_.pieces.parts; ++i, cell += 2) sum += w * cell[0], product += w * cell[1];
        }
      }
      k.solve(sum, product, n, c_.a.centered);
    }

    void write(Index group, Index piece, void* state) {
      const NormPlace base = place_of(c_.g.groups, group);
      if (c_.g.columns) return write_columns(base, piece, state);
      const NormPiece p = c_.pieces[piece];
      const auto& k = *static_cast<const Coefficients*>(state);
      for (Index row = p.first_row; row < p.last_row; ++row) {
        const NormPlace at = row_of(c_.g, base, row);
        for (Index i = p.first; i < p.last; i += kOut) {
          const Index n = std::min(kOut, p.last - i);
          const bool reads = !c_.call.given || c_.activated();
          const void* x = reads ? port_.read(c_.call.x, at.x + i, n, 1, x_) : nullptr;
          write_run(at, k, i, n, x, gradient(k.region, at, i, n, x));
        }
      }
    }

    // Some groups at once where each is one short run, evenly apart. Gives their number, or 0 where they are not.
    Index few(Index group, Index last) {
      if (!few_) return 0;
      const NormDim d = c_.g.groups.empty() ? NormDim{} : c_.g.groups.front();
      const Index n = std::min(last - group, few_), run = c_.g.run;
      Index x_pitch = d.x, g_pitch = d.other;
      const void* x = port_.read(c_.call.x, group * d.x, &x_pitch, {n, run}, 1, x_);
      const void* g = port_.read(c_.call.grad, group * d.other, &g_pitch, {n, run}, c_.g.other_step, g_);
      Coefficients k[kNormFew];
      NormRow rows[kNormFew];
      double sum[kNormFew][2];
      for (Index i = 0; i < n; ++i) {
        NormRegion& r = k[i].region = c_.region((group + i) * d.region);
        rows[i] = {advance(g, i * g_pitch, c_.k.size), advance(x, i * x_pitch, c_.k.size), r.center, r.rstd,
                   -r.low * r.rstd};
      }
      for (Index i = 0; i < n; ++i) {
        const auto& [row_g, row_x, center, scale, shift] = rows[i];
        if (c_.along() && c_.weight) c_.k.sums_along(row_g, row_x, run, center, c_.weight, sum[i]);
        else c_.k.sums(row_g, row_x, run, center, sum[i]);
        sum[i][1] -= k[i].region.low * sum[i][0];
      }
      if (near_) {
        for (Index i = 0; i < n; i += kNormRows)
          c_.k.parameters_along(near_, advance(near_, along_count(), c_.k.size), rows + i,
                                int(std::min<Index>(kNormRows, n - i)), run);
        if ((rows_ += n) >= kRows) flush();
      }
      for (Index i = 0; i < n; ++i) {
        double* cell = sum[i];
        if (!c_.along()) {
          double* to = c_.sums + 2 * (group + i);
          to[0] = cell[0], to[1] = cell[1];
          const double w = c_.k.at(c_.weight, (group + i) * d.parameter, 1);
          cell[0] *= w, cell[1] *= w;
        }
        k[i].solve(cell[0], cell[1], double(c_.g.region_size), c_.a.centered);
      }
      if (!c_.writes()) return n;
      for (Index i = 0; i < n; ++i) {
        const Index at = group + i;
        write_run({at * d.x, at * d.out, at * d.other, at * d.region, at * d.parameter}, k[i], 0, run, rows[i].x,
                  rows[i].g);
      }
      return n;
    }

   private:
    static constexpr Index kRows = 32;  // added in accumulators

    // n elements of a run, from the i-th on.
    void write_run(const NormPlace& at, const Coefficients& k, Index i, Index n, const void* x, const void* g) {
      const NormRegion& r = k.region;
      const bool along = c_.along() && c_.weight;
      const double scale = r.rstd * (c_.along() ? 1 : c_.k.at(c_.weight, at.parameter, 1));
      const void* weight = along ? advance(c_.weight, at.parameter + i, c_.k.size) : nullptr;
      const Index to = at.out + i * c_.g.out_step;
      Index whole = n;
      void* y = to_.room(to, y_, &whole, n);
      if (c_.call.given) {
        if (along) c_.k.affine_along(y, g, n, 0, scale, 0, weight, nullptr);
        else c_.k.affine(y, g, n, 0, scale, 0);
      } else if (along) {
        c_.k.gradient_along(y, g, x, n, scale, k.b, r.center, k.d, weight);
      } else {
        c_.k.gradient(y, g, x, n, scale, k.b, r.center, k.d);
      }
      to_.put(to, y, {1, n}, n);
    }
    bool across() const { return c_.pieces.parts > 1; }
    Index along_count() const { return across() ? c_.pieces.part : c_.g.parameter_count; }
    void add_pending() {
      void* weights = advance(near_, pending_at_, c_.k.size);
      void* biases = advance(weights, along_count(), c_.k.size);
      if (pending_count_) c_.k.parameters_along(weights, biases, pending_, pending_count_, pending_n_);
      pending_count_ = 0;
    }
    void flush() {
      add_pending();
      c_.k.flush(far_, near_, 2 * along_count(), first_);
      first_ = false;
      rows_ = 0;
    }
    double* totals(void* state) const { return reinterpret_cast<double*>(static_cast<Coefficients*>(state) + 1); }
    double* column_sums(void* state, Index piece) const { return static_cast<double*>(state) + piece * 2 * c_.g.run; }
    // center, scale, shift, b, d: behind the sums of a group's state; the first three in a worker's own memory, too
    void* vectors_of(void* state) const { return column_sums(state, c_.pieces.count); }
    void* vector(void* vectors, int which, Index at = 0) const {
      return advance(vectors, which * c_.g.run + at, c_.k.size);
    }
    // What comes in, times the activation's derivative at what went into it.
    const void* gradient(const NormRegion& r, const NormPlace& at, Index i, Index n, const void* x) {
      const void* g = port_.read(c_.call.grad, at.other + i * c_.g.other_step, n, c_.g.other_step, g_);
      if (!c_.activated()) return g;
      if (c_.along()) {
        const auto from = [&](const void* list) { return list ? advance(list, at.parameter + i, c_.k.size) : nullptr; };
        if (c_.weight || c_.bias)
          c_.k.affine_along(y_, x, n, r.center, r.rstd, -r.low * r.rstd, from(c_.weight), from(c_.bias));
        else
          c_.k.affine(y_, x, n, r.center, r.rstd, -r.low * r.rstd);
      } else {
        const double scale = r.rstd * c_.k.at(c_.weight, at.parameter, 1);
        c_.k.affine(y_, x, n, r.center, scale, c_.k.at(c_.bias, at.parameter, 0) - r.low * scale);
      }
      return deactivated(g, n);
    }
    const void* deactivated(const void* g, Index n) {
      if (g != g_) std::memcpy(g_, g, std::size_t(n) * c_.k.size);
      c_.k.deactivate(g_, y_, n, c_.a.activation, c_.a.slope);
      return g_;
    }

    struct Tiles { const void* x; const void* g; Index x_pitch, g_pitch; };
    Tiles tiles(const NormPlace& at, const NormDim& dim, Tile tile, Index first, void* vectors, bool reads) {
      Tiles t{nullptr, nullptr, dim.x, dim.other};
      if (reads) t.x = port_.read(c_.call.x, at.x + first, &t.x_pitch, tile, 1, x_);
      t.g = port_.read(c_.call.grad, at.other + first * c_.g.other_step, &t.g_pitch, tile, c_.g.other_step, g_);
      if (!c_.activated()) return t;
      c_.k.affine_columns(y_, tile.columns, t.x, t.x_pitch, tile, vector(vectors, 0, first),
                          vector(vectors, 1, first), vector(vectors, 2, first));
      if (t.g != g_)
        for (Index r = 0; r < tile.rows; ++r)
          std::memcpy(advance(g_, r * tile.columns, c_.k.size), advance(t.g, r * t.g_pitch, c_.k.size),
                      std::size_t(tile.columns) * c_.k.size);
      c_.k.deactivate(g_, y_, tile.rows * tile.columns, c_.a.activation, c_.a.slope);
      t.g = g_, t.g_pitch = tile.columns;
      return t;
    }

    void measure_columns(Index group, const NormPlace& base, Index piece, void* state) {
      double* sum = column_sums(state, piece);
      std::memset(sum, 0, std::size_t(2 * c_.g.run) * sizeof(double));
      make_own(group, base);
      each_tile(c_.g, base, c_.pieces[piece], kBlock, 256,
                [&](const NormPlace& at, const NormDim& dim, Tile tile, Index first, Index) {
        const Tiles t = tiles(at, dim, tile, first, own_, true);
        c_.k.column_sums(t.g, t.g_pitch, t.x, t.x_pitch, tile, vector(own_, 0, first), sum + first,
                         sum + c_.g.run + first);
      });
    }

    // Vectors that do not depend on sums: pieces of one group run side by side.
    void make_own(Index group, const NormPlace& base) {
      if (group == own_group_) return;
      each_region(base, [&](const NormSpan& s, const NormRegion& r, Index) { set_affine(own_, base, s, r); });
      own_group_ = group;
    }
    // center, scale and shift; without an activation the backward pass has no shift
    void set_affine(void* vectors, const NormPlace& base, const NormSpan& s, const NormRegion& r) const {
      c_.norm.fill(vector(vectors, 0), s.first, s.count, r.center);
      each_parameter(s, [&](Index first, Index n, Index parameter) {
        const double scale = r.rstd * c_.k.at(c_.weight, base.parameter + parameter, 1);
        c_.norm.fill(vector(vectors, 1), first, n, scale);
        if (c_.activated())
          c_.norm.fill(vector(vectors, 2), first, n,
                       c_.k.at(c_.bias, base.parameter + parameter, 0) - r.low * scale);
      });
    }
    template <class What>
    void each_region(const NormPlace& base, What what) const {
      Index known = -1;
      NormRegion r;
      for (const NormSpan& s : c_.g.spans) {
        const Index region = base.region + s.region;
        if (region != known) r = c_.region(region), known = region;
        what(s, r, region);
      }
    }

    void finish_columns(const NormPlace& base, Index group, void* state) {
      const NormGeometry& g = c_.g;
      const bool sums = c_.needs_sums() && c_.measures();
      std::vector<double> of_region(sums ? 2 * g.slot_regions.size() : 0);
      if (c_.measures()) {
        double* sum = column_sums(state, 0);
        for (Index p = 1; p < c_.pieces.count; ++p) norm_isa().twice.add(sum, column_sums(state, p), 2 * g.run);
        double* cell = c_.sums + 2 * group * c_.cells();
        each_region(base, [&](const NormSpan& s, const NormRegion& r, Index) {
          each_parameter(s, [&](Index first, Index n, Index parameter) {
            cell[0] = cell[1] = 0;
            for (Index i = first; i < first + n; ++i) cell[0] += sum[i], cell[1] += sum[g.run + i];
            cell[1] -= r.low * cell[0];
            if (sums) {
              const double w = c_.k.at(c_.weight, base.parameter + parameter, 1);
              of_region[std::size_t(2 * s.slot)] += w * cell[0];
              of_region[std::size_t(2 * s.slot + 1)] += w * cell[1];
            }
            cell += 2;
          });
        });
      }
      if (!c_.writes()) return;
      each_region(base, [&](const NormSpan& s, const NormRegion& r, Index region) {
        Coefficients k;
        k.region = r;
        if (c_.call.all) {
          const double w = c_.k.at(c_.weight, base.parameter + s.parameter, 1);
          k.solve(w * c_.call.all[region], w * c_.call.all[g.region_count + region], c_.call.count, c_.a.centered);
        } else if (sums) {
          k.solve(of_region[std::size_t(2 * s.slot)], of_region[std::size_t(2 * s.slot + 1)], double(g.region_size),
                  c_.a.centered);
        }
        void* vectors = vectors_of(state);
        set_affine(vectors, base, s, r);
        c_.norm.fill(vector(vectors, 3), s.first, s.count, k.b);
        c_.norm.fill(vector(vectors, 4), s.first, s.count, k.d);
      });
    }

    void write_columns(const NormPlace& base, Index piece, void* state) {
      each_tile(c_.g, base, c_.pieces[piece], kOut, 512,
                [&](const NormPlace& at, const NormDim& dim, Tile tile, Index first, Index) {
        const Index to = at.out + first * c_.g.out_step;
        const bool constant = c_.call.given;
        void* vectors = vectors_of(state);
        const Tiles t = tiles(at, dim, tile, first, vectors, !constant || c_.activated());
        Index y_pitch = dim.out;
        void* y = to_.room(to, y_, &y_pitch, tile.columns);
        const auto v = [&](int which) { return vector(vectors, which, first); };
        if (constant) {
          c_.k.affine_columns(y, y_pitch, t.g, t.g_pitch, tile, zeros(), v(1), zeros());
        } else {
          c_.k.gradient_columns(y, y_pitch, t.g, t.g_pitch, t.x, t.x_pitch, tile, v(1), v(3), v(0), v(4));
        }
        to_.put(to, y, tile, dim.out);
      });
    }
    const void* zeros() const {
      static const double list[512] = {};
      return list;
    }

    const NormBackward& c_;
    NormPort port_;
    NormTarget to_;
    Index few_ = 0;  // how many groups at once
    void* x_ = nullptr;
    void* g_ = nullptr;
    void* y_ = nullptr;
    void* near_ = nullptr;
    double* far_ = nullptr;
    Index rows_ = 0;  // in near_
    bool first_ = true;
    NormRow pending_[kNormRows];
    int pending_count_ = 0;
    Index pending_at_ = 0, pending_n_ = 0;
    void* own_ = nullptr;     // center, scale and shift of the columns of own_group_
    Index own_group_ = -1;
    Scratch scratch_;
  };

  void run() {
    const int threads = elements() < kParallelElements ? 1 : thread_count();
    const Index group_bytes = 2 * g.row_count * g.run * Index(norm.size_);
    const bool sums_along = sums_across();
    const bool across = along() && pieces.parts > 1;
    const bool many = sums_along || threads == 1 || (g.group_count >= 4 * threads && group_bytes <= kGroupBytes);
    const NormOrder order = across ? NormOrder::across : many ? NormOrder::groups : NormOrder::pieces;
    const Index batch = across ? g.group_count : std::clamp(kCacheBytes / group_bytes, Index(1), g.group_count);
    // Sums of parameters belong to a fixed number of groups, whatever the threads.
    const Index chunks = std::clamp(g.group_count / 16, Index(1), Index(32));
    chunk = sums_along ? (g.group_count + chunks - 1) / chunks
                       : std::max<Index>(1, kParallelElements / (g.row_count * g.run));
    const Index lists = across ? 0 : (g.group_count + chunk - 1) / chunk;
    const Index places = sums_along ? lists * g.parameter_count : along() ? 0 : g.group_count * cells();
    const memory::Buffer room(std::size_t(2 * places) * sizeof(double));
    (sums_along ? parameters : sums) = reinterpret_cast<double*>(room.data());
    drive(*this, g, pieces.count, order, chunk, batch, threads);
    if (across) return;
    if (sums_along) finish_along(lists);
    else if (wants_parameters() || call.sums) finish_cells();
  }

 private:
  // Sums of n parameters from `first` on, in the caller's order and dtype.
  void store(const double* weight_sums, const double* bias_sums, Index first, Index n) const {
    norm.return_parameters(call.grad_weight, weight_sums, first, n);
    norm.return_parameters(call.grad_bias, bias_sums, first, n);
  }

  void finish_along(Index lists) const {
    const Index n = g.parameter_count;
    for (Index list = 1; list < lists; ++list)
      norm_isa().twice.add(parameters, parameters + list * 2 * n, 2 * n);
    store(parameters, parameters + n, 0, n);
  }

  void finish_cells() const {
    std::vector<double> weights(std::size_t(g.parameter_count)), biases(std::size_t(g.parameter_count));
    if (call.sums) std::memset(call.sums, 0, std::size_t(2 * g.region_count) * sizeof(double));
    for (Index group = 0; group < g.group_count; ++group) {
      const NormPlace base = place_of(g.groups, group);
      const double* cell = sums + 2 * group * cells();
      const auto take = [&](Index of_region, Index parameter) {
        if (call.sums) call.sums[of_region] += cell[0], call.sums[g.region_count + of_region] += cell[1];
        if (wants_parameters()) {
          weights[std::size_t(parameter)] += cell[1] * region(of_region).rstd;
          biases[std::size_t(parameter)] += cell[0];
        }
        cell += 2;
      };
      if (g.columns)
        for (const NormSpan& s : g.spans)
          each_parameter(s, [&](Index, Index, Index parameter) {
            take(base.region + s.region, base.parameter + parameter);
          });
      else
        for (Index row = 0; row < g.row_count; ++row)
          for (Index i = 0; i < pieces.parts; ++i)
            take(base.region, base.parameter + place_of(g.rows, row).parameter);
    }
    if (wants_parameters()) store(weights.data(), biases.data(), 0, g.parameter_count);
  }
};

void Norm::gradient(const Gradient& call) const {
  const NormParameters p(*this, call.weight, call.bias);
  NormBackward{.norm = *this, .call = call, .weight = p.weight, .bias = p.bias}.run();
}

}  // namespace infinitypool
