#include "call.hpp"

namespace infinitypool {
namespace {

// Count, mean and squared deviations of some elements; pieces are merged in order.
// Chan, Golub and LeVeque, 1979.
struct Moments {
  double count = 0, mean = 0, square = 0;
  void merge(double n, double other_mean, double other_square) {
    if (count == 0) {
      count = n, mean = other_mean, square = other_square;
      return;
    }
    const double d = other_mean - mean, share = n / (count + n);
    mean += d * share;
    square += other_square + d * d * count * share;
    count += n;
  }
};

}  // namespace

// One forward call.
class NormForward {
 public:
  enum class Statistics { measured, given, factors };

  const Norm& norm;
  const NormArguments& a = norm.a_;
  const NormGeometry& g = norm.geometry_;
  const NormKernels& k = *norm.k_;
  Statistics statistics = Statistics::measured;
  const void* x;
  const void* residual = nullptr;
  void* out = nullptr;
  void* total = nullptr;
  const void* mean = nullptr;  // given, or factors
  const void* var = nullptr;   // given, or offsets
  double* mean_out = nullptr;
  double* var_out = nullptr;
  Norm::Running running{};
  const void* weight = nullptr;
  const void* bias = nullptr;
  NormPieces pieces{g};

  bool measures() const { return statistics == Statistics::measured; }
  bool writes() const { return out; }
  bool sums_across() const { return false; }
  bool along() const { return g.along && (weight || bias); }
  // Along a run: what its pieces came to, then its region. Columns: means and squares of every piece, and vectors.
  std::size_t state_bytes() const {
    if (!g.columns) return sizeof(Moments) * std::size_t(pieces.count) + sizeof(NormRegion);
    return std::size_t(g.run) * (std::size_t(measures() ? pieces.count : 0) * 2 * sizeof(double) + 3 * k.size);
  }
  Moments* moments(void* state) const { return static_cast<Moments*>(state); }
  double* squares(void* state, Index piece) const { return static_cast<double*>(state) + piece * 2 * g.run; }
  void* vector(void* state, int which) const {
    return advance(static_cast<double*>(state) + (measures() ? pieces.count : 0) * 2 * g.run, which * g.run, k.size);
  }

  NormRegion region(Index at, double m, double v) const {
    if (statistics == Statistics::given) {
      m = a.centered ? read_float(a.given_dtype, mean, at) : 0;
      v = read_float(a.given_dtype, var, at);
    }
    return {m, v, a.eps, k.size == sizeof(float)};
  }
  // The factor and the shift for one region and parameter.
  void affine(const NormRegion& r, Index parameter, double* scale, double* shift) const {
    *scale = r.rstd * k.at(weight, parameter, 1);
    *shift = k.at(bias, parameter, 0) - r.low * *scale;
  }
  void factors(Index region, double* scale, double* shift) const {
    *scale = static_cast<const double*>(mean)[region];
    *shift = var ? static_cast<const double*>(var)[region] : -0.0;  // added to a zero of either sign, it leaves it
  }
  class Worker {
   public:
    explicit Worker(const NormForward& call)
        : c_(call), port_(c_.k, c_.a.dtype, c_.norm.direct_),
          to_(c_.k, c_.a.dtype, c_.norm.direct_, c_.out, c_.g.out_step, c_.g.group_count * c_.g.row_count * c_.g.run),
          scratch_([this](Scratch& s) {
            x_ = s.take(NormPort::kRoom, c_.k.size);
            y_ = s.take(NormPort::kRoom, c_.k.size);
            to_.take_room(s);
          }) {
      asks_ = c_.g.group_count * c_.g.row_count * c_.g.run * Index(c_.norm.size_) >= Index(kStreamBytes);
      along_ = c_.along();
      if (c_.measures() && !c_.residual && !c_.g.columns && c_.g.row_count == 1 && c_.g.groups.size() <= 1)
        few_ = std::min<Index>(kNormFew, kBlock / c_.g.run);
    }
    void open(Index, bool) {}
    void close(Index, bool) {}

    void measure(Index group, Index piece, void* state) {
      const NormPlace base = place_of(c_.g.groups, group);
      if (c_.g.columns) return measure_columns(base, piece, state);
      const NormPiece p = c_.pieces[piece];
      Moments sum;
      for (Index row = p.first_row; row < p.last_row; ++row) {
        const NormPlace at = row_of(c_.g, base, row);
        for (Index i = p.first; i < p.last; i += kBlock) {
          const Index n = std::min(kBlock, p.last - i);
          double mean, square;
          const void* x = c_.residual ? sum_of(at, i, n)
                                      : port_.read(c_.x, at.x + i, n, 1, x_);
          ask(at.x + i + n, at.x + c_.g.run, n);
          c_.k.moments(x, 0, n, 1, c_.a.centered, &mean, &square);
          sum.merge(double(n), mean, square);
        }
      }
      c_.moments(state)[piece] = sum;
    }

    void finish_group(Index group, void* state) {
      const NormPlace base = place_of(c_.g.groups, group);
      if (c_.g.columns) return finish_columns(base, state);
      Moments sum;
      if (c_.measures())
        for (Index p = 0; p < c_.pieces.count; ++p) {
          const Moments& m = c_.moments(state)[p];
          sum.merge(m.count, m.mean, m.square);
        }
      if (c_.statistics == Statistics::factors) return;
      auto* region = reinterpret_cast<NormRegion*>(c_.moments(state) + c_.pieces.count);
      const double var = sum.square / double(c_.g.region_size);
      if (c_.measures()) c_.keep(base.region, sum.mean, var);
      *region = c_.region(base.region, sum.mean, var);
    }

    void write(Index group, Index piece, void* state) {
      const NormPlace base = place_of(c_.g.groups, group);
      if (c_.g.columns) return write_columns(base, piece, state);
      const NormPiece p = c_.pieces[piece];
      const auto& region = *reinterpret_cast<const NormRegion*>(c_.moments(state) + c_.pieces.count);
      for (Index row = p.first_row; row < p.last_row; ++row)
        write_run(row_of(c_.g, base, row), region, p.first, p.last, nullptr);
      if (asks_ && group + 1 < c_.g.group_count) {  // for the same piece of the next group
        const NormPlace next = row_of(c_.g, place_of(c_.g.groups, group + 1), p.first_row);
        ahead_.consumed(advance(c_.x, next.x + p.first, c_.norm.size_));
        ahead_.ask((p.last - p.first) * Index(c_.norm.size_) / 2);
      }
    }

    // Some groups at once where each is one short run, evenly apart. Gives their number, or 0 where they are not.
    Index few(Index group, Index last) {
      if (!few_) return 0;
      const NormDim d = c_.g.groups.empty() ? NormDim{} : c_.g.groups.front();
      const Index n = std::min(last - group, few_);
      double mean[kNormFew], square[kNormFew];
      Index pitch = d.x;
      const void* x = port_.read(c_.x, group * d.x, &pitch, {n, c_.g.run}, 1, x_);
      ask(group * d.x + (n - 1) * d.x + c_.g.run, 0, n * c_.g.run);
      c_.k.moments(x, pitch, c_.g.run, int(n), c_.a.centered, mean, square);
      NormRegion regions[kNormFew];
      for (Index i = 0; i < n; ++i) {
        const Index region = (group + i) * d.region;
        const double var = square[i] / double(c_.g.region_size);
        c_.keep(region, mean[i], var);
        regions[i] = c_.region(region, mean[i], var);
      }
      if (!c_.writes()) return n;
      for (Index i = 0; i < n; ++i) {
        const Index g = group + i;
        write_run({g * d.x, g * d.out, g * d.other, g * d.region, g * d.parameter}, regions[i], 0, c_.g.run,
                  advance(x, i * pitch, c_.k.size));
      }
      return n;
    }

   private:
    // Elements from first to last of a run; x, where they are accumulators already.
    void write_run(const NormPlace& at, const NormRegion& region, Index first, Index last, const void* ready) {
      double center = 0, scale, shift;
      if (c_.statistics == Statistics::factors) {
        c_.factors(at.region, &scale, &shift);
      } else {
        center = region.center;
        if (along_) scale = region.rstd, shift = -region.low * region.rstd;
        else c_.affine(region, at.parameter, &scale, &shift);
      }
      for (Index i = first; i < last; i += kOut) {
        const Index n = std::min(kOut, last - i), to = at.out + i * c_.g.out_step;
        const void* x = ready         ? advance(ready, i, c_.k.size)
                        : c_.residual ? port_.read(c_.total, to, n, c_.g.out_step, x_)
                                      : port_.read(c_.x, at.x + i, n, 1, x_);
        Index whole = n;
        void* y = to_.room(to, y_, &whole, n);
        if (along_) c_.k.affine_along(y, x, n, center, scale, shift, parameters(c_.weight, at.parameter + i),
                                      parameters(c_.bias, at.parameter + i));
        else c_.k.affine(y, x, n, center, scale, shift);
        if (c_.a.activation != Activation::none) c_.k.activate(y, n, c_.a.activation, c_.a.slope);
        to_.put(to, y, {1, n}, n);
        if (asks_) ahead_.ask(n * Index(c_.norm.size_));
      }
    }

    // For what follows the first `end` elements of x, up to the end of a run where groups do not follow one another.
    void ask(Index end, Index last, Index n) {
      if (!asks_) return;
      const bool follow = c_.g.row_count == 1;
      ahead_.consumed(advance(c_.x, end, c_.norm.size_), follow ? nullptr : advance(c_.x, last, c_.norm.size_));
      ahead_.ask(n * Index(c_.norm.size_) / 2);
    }

    const void* parameters(const void* list, Index at) const { return list ? advance(list, at, c_.k.size) : nullptr; }

    // x + residual, as it is kept.
    const void* sum_of(const NormPlace& at, Index i, Index n) {
      c_.k.load[int(c_.a.dtype)](x_, advance(c_.x, at.x + i, c_.norm.size_), n, 1);
      c_.k.add(x_, port_.read(c_.residual, at.other + i * c_.g.other_step, n, c_.g.other_step, y_), n);
      const Index to = at.out + i * c_.g.out_step;
      keep(to, {1, n}, n);
      return c_.norm.direct_ ? x_ : port_.read(c_.total, to, n, c_.g.out_step, x_);
    }
    void keep(Index to, Tile tile, Index pitch) {
      NormTarget total(c_.k, c_.a.dtype, c_.norm.direct_, c_.total, c_.g.out_step, 0);
      total.share_room(to_);
      total.put(to, x_, tile, pitch);
    }

    void measure_columns(const NormPlace& base, Index piece, void* state) {
      double* mean = c_.squares(state, piece);
      each_tile(c_.g, base, c_.pieces[piece], kBlock, 256,
                [&](const NormPlace& at, const NormDim& dim, Tile tile, Index first, Index before) {
        Index pitch = dim.x;
        const void* x;
        if (c_.residual) {
          for (Index r = 0; r < tile.rows; ++r)
            c_.k.load[int(c_.a.dtype)](advance(x_, r * tile.columns, c_.k.size),
                                       advance(c_.x, at.x + first + r * dim.x, c_.norm.size_), tile.columns, 1);
          Index other = dim.other;
          const Index from = at.other + first * c_.g.other_step;
          const void* y = port_.read(c_.residual, from, &other, tile, c_.g.other_step, y_);
          for (Index r = 0; r < tile.rows; ++r)
            c_.k.add(advance(x_, r * tile.columns, c_.k.size), advance(y, r * other, c_.k.size), tile.columns);
          const Index to = at.out + first * c_.g.out_step;
          keep(to, tile, dim.out);
          pitch = dim.out;
          x = port_.read(c_.total, to, &pitch, tile, c_.g.out_step, x_);
        } else {
          x = port_.read(c_.x, at.x + first, &pitch, tile, 1, x_);
        }
        c_.k.column_moments(x, pitch, tile, c_.a.centered, before, mean + first, mean + c_.g.run + first);
      });
    }

    void finish_columns(const NormPlace& base, void* state) {
      const NormGeometry& g = c_.g;
      const bool factors = c_.statistics == Statistics::factors;
      std::vector<Moments> regions;
      if (c_.measures()) {
        regions.resize(g.slot_regions.size());
        double *mean = c_.squares(state, 0), *square = mean + g.run;
        for (Index p = 1; p < c_.pieces.count; ++p) {
          const NormPiece piece = c_.pieces[p];
          const double* more = c_.squares(state, p);
          c_.k.merge_rows(mean, square, more, more + g.run, g.run, c_.a.centered, double(piece.first_row),
                          double(piece.last_row - piece.first_row));
        }
        const double rows = double(g.row_count);
        for (const NormSpan& s : g.spans) {
          double of_mean, of_square;
          c_.k.merge_span(mean + s.first, square + s.first, s.count, c_.a.centered, rows, &of_mean, &of_square);
          regions[std::size_t(s.slot)].merge(rows * double(s.count), of_mean, of_square);
        }
      }
      std::vector<NormRegion> made(factors ? 0 : g.slot_regions.size());
      for (std::size_t slot = 0; slot < made.size(); ++slot) {
        const Moments m = c_.measures() ? regions[slot] : Moments{};
        const Index region = base.region + g.slot_regions[slot];
        const double var = m.square / double(g.region_size);
        if (c_.measures()) c_.keep(region, m.mean, var);
        made[slot] = c_.region(region, m.mean, var);
      }
      for (const NormSpan& s : g.spans) {
        each_parameter(s, [&](Index first, Index n, Index parameter) {
          double scale, shift;
          if (factors) c_.factors(base.region + s.region, &scale, &shift);
          else c_.affine(made[std::size_t(s.slot)], base.parameter + parameter, &scale, &shift);
          c_.norm.fill(c_.vector(state, 0), first, n, factors ? 0 : made[std::size_t(s.slot)].center);
          c_.norm.fill(c_.vector(state, 1), first, n, scale);
          c_.norm.fill(c_.vector(state, 2), first, n, shift);
        });
      }
    }

    void write_columns(const NormPlace& base, Index piece, void* state) {
      each_tile(c_.g, base, c_.pieces[piece], kOut, 1024,
                [&](const NormPlace& at, const NormDim& dim, Tile tile, Index first, Index) {
        const Index to = at.out + first * c_.g.out_step;
        Index pitch = c_.residual ? dim.out : dim.x;
        const void* x = c_.residual ? port_.read(c_.total, to, &pitch, tile, c_.g.out_step, x_)
                                    : port_.read(c_.x, at.x + first, &pitch, tile, 1, x_);
        Index y_pitch = dim.out;
        void* y = to_.room(to, y_, &y_pitch, tile.columns);
        const auto from = [&](int which) { return advance(c_.vector(state, which), first, c_.k.size); };
        c_.k.affine_columns(y, y_pitch, x, pitch, tile, from(0), from(1), from(2));
        if (c_.a.activation != Activation::none)
          for (Index r = 0; r < tile.rows; ++r)
            c_.k.activate(advance(y, r * y_pitch, c_.k.size), tile.columns, c_.a.activation, c_.a.slope);
        to_.put(to, y, tile, dim.out);
      });
    }

    const NormForward& c_;
    NormPort port_;
    NormTarget to_;
    ReadAhead ahead_;
    bool along_ = false;
    Index few_ = 0;  // how many groups at once
    bool asks_;  // for what the next group reads, which follows; not where the caches hold it anyway
    void* x_ = nullptr;
    void* y_ = nullptr;
    Scratch scratch_;
  };

  void run() const {
    const Index elements = g.group_count * g.row_count * g.run;
    const int threads = elements < kParallelElements ? 1 : thread_count();
    const Index group_bytes = g.row_count * g.run * Index(norm.size_);
    const bool long_parameters = along() && pieces.parts > 1 && g.group_count > 1;
    const bool many = threads == 1 || (g.group_count >= 4 * threads && group_bytes <= kGroupBytes);
    const NormOrder order = long_parameters ? NormOrder::across : many ? NormOrder::groups : NormOrder::pieces;
    const Index batch = order == NormOrder::across ? g.group_count
                                                   : std::clamp(kCacheBytes / group_bytes, Index(1), g.group_count);
    drive(*this, g, pieces.count, order, std::max<Index>(1, kParallelElements / (g.row_count * g.run)), batch, threads);
  }

 private:
  void keep(Index at, double m, double v) const {
    if (mean_out && a.centered) mean_out[at] = m;
    if (var_out) var_out[at] = v;
    if (!running.var) return;
    const double n = double(g.region_size);
    const auto move = [&](void* list, double value) {
      const double before = read_float(a.given_dtype, list, at);
      write_float(a.given_dtype, list, at, before + running.momentum * (value - before));
    };
    move(running.mean, m);
    move(running.var, v * n / (n - 1));
  }
};

void Norm::normalize(const void* x, const void* residual, void* out, void* total, const void* weight, const void* bias,
                     double* mean, double* var, Running running) const {
  const NormParameters p(*this, weight, bias);
  NormForward{.norm = *this, .x = x, .residual = residual, .out = out, .total = total, .mean_out = mean,
              .var_out = var, .running = running, .weight = p.weight, .bias = p.bias}.run();
}

void Norm::apply(const void* x, void* out, const void* weight, const void* bias, const void* mean,
                 const void* var) const {
  const NormParameters p(*this, weight, bias);
  NormForward{.norm = *this, .statistics = NormForward::Statistics::given, .x = x, .out = out, .mean = mean,
              .var = var, .weight = p.weight, .bias = p.bias}.run();
}

void Norm::scale(const void* x, void* out, const double* factors, const double* offsets) const {
  NormForward{.norm = *this, .statistics = NormForward::Statistics::factors, .x = x, .out = out, .mean = factors,
              .var = offsets}.run();
}

}  // namespace infinitypool
