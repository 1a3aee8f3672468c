// Inner products and sums of value vectors, a few queries by NR columns at a time in registers; packing of keys.

// Floats that are read later: those from `at` on, `apart` of them for each query.
struct Ahead {
  const float* at;
  int apart;
};

// Runs f(n) for `from` <= n < `to`, some at a time: `to` and `from` are multiples of the vector; on the way floats from `next` on come nearer, one line for every 128 / NR of n. If only the first
// to read a tile asked the third cache for it, all would wait with it.
template <class F> INLINE void steps(int from, int to, const float* next, F f) {
  constexpr int every = 128 / NR, at_once = V < 8 ? V : 8;
  for (int n = from; n < to; n += at_once)
    UNROLL for (int u = 0; u < at_once; u++) {
      if (u % every == 0) __builtin_prefetch(next + (n + u) / every * 16, 0, 2);
      f(n + u);
    }
}

// Vectors of columns that some query of a few keeps, of a tile: those from `from` up to `to`. Without spans: all of them.
struct Span {
  int from, to;
};
INLINE Span span_of(const Span* spans, int group) { return spans ? spans[group] : Span{0, KV}; }

template <int R, int N, int COUNT, int S>
INLINE void products(const float* left, const float* keys, float* s, const float* next, bool more) {
  vf sum[R][N];
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int n = 0; n < N; n++) sum[r][n] = more ? ld(s + r * KB + n * V) : vf{};
  const auto feature = [&](int d) __attribute__((always_inline)) {
    vf k[N];
    UNROLL for (int n = 0; n < N; n++) k[n] = ld(keys + d * NR + n * V);
    UNROLL for (int r = 0; r < R; r++) {
      const vf q = bf(left[r * S + d]);
      UNROLL for (int n = 0; n < N; n++) sum[r][n] += q * k[n];
    }
  };
  steps(0, COUNT / V * V, next, feature);
  for (int d = COUNT / V * V; d < COUNT; d++) feature(d);
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int n = 0; n < N; n++) st(s + r * KB + n * V, sum[r][n]);
}

// The products of vectors `from` up to `to` of a block of NR columns.
template <int R, int N, int COUNT, int S>
INLINE void products_within(int from, int to, const float* left, const float* keys, float* s, const float* next, bool more) {
  if (to - from == N) products<R, N, COUNT, S>(left, keys + from * V, s + from * V, next, more);
  else if constexpr (N > 1) products_within<R, N - 1, COUNT, S>(from, to, left, keys, s, next, more);
}

template <int R, int COUNT, int D, int S>
INLINE void features_products(int d, const float* left, const float* keys, float* s, int used, Ahead next, const Span* spans) {
  for (int first = 0; first < used; first += R) {
    const Span span = span_of(spans, first / R);
    for (int n = 0; n < KB; n += NR) {
      const int from = span.from - n / V, to = span.to - n / V;
      products_within<R, NV, COUNT, S>(from < 0 ? 0 : from, to < NV ? to : NV, left + first * S + d, keys + n * D + d * NR,
                                       s + first * KB + n, next.at + first * next.apart + (d * KB + n * COUNT) / 8, d > 0);
    }
  }
}

// Features whose keys stay in the first cache while all queries meet them.
constexpr int NEAR = 16384 / 4 / KB;

// s[used][KB] = left[used][D], rows S apart, times a packed tile of keys: KB / NR blocks of [D][NR].
template <int R, int D, int S>
OUTLINE void inner_products(const float* left, const float* keys, float* s, int used, Ahead next, const Span* spans) {
  constexpr int whole = D / NEAR * NEAR, rest = D - whole;
  for (int d = 0; d < whole; d += NEAR) features_products<R, NEAR, D, S>(d, left, keys, s, used, next, spans);
  if constexpr (rest > 0) features_products<R, rest, D, S>(whole, left, keys, s, used, next, spans);
}

template <int R, int DV, int N>
INLINE void weighted_values(const float* w, const float* values, const float* factor, float* o, const float* next, Span span) {
  vf sum[R][N];
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int n = 0; n < N; n++) sum[r][n] = ld(o + r * DV + n * V) * factor[r];
  steps(span.from * V, span.to * V, next, [&](int j) __attribute__((always_inline)) {
    vf v[N];
    UNROLL for (int n = 0; n < N; n++) v[n] = ld(values + j * N * V + n * V);
    UNROLL for (int r = 0; r < R; r++) {
      const vf p = bf(w[r * KB + j]);
      UNROLL for (int n = 0; n < N; n++) sum[r][n] += p * v[n];
    }
  });
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int n = 0; n < N; n++) st(o + r * DV + n * V, sum[r][n]);
}

// o[used][DV] = o * factor[used] + w[used][KB] times a packed tile of values: blocks of [KB][NR] and one of the rest of DV.
template <int R, int DV>
OUTLINE void weighted_sum(const float* w, const float* values, const float* factor, float* o, int used, Ahead next, const Span* spans) {
  constexpr int whole = DV / NR * NR, rest = (DV - whole) / V;
  for (int d = 0; d < whole; d += NR)
    for (int first = 0; first < used; first += R)
      weighted_values<R, DV, NV>(w + first * KB, values + d * KB, factor + first, o + first * DV + d,
                                 next.at + first * next.apart + d * KB / 8, span_of(spans, first / R));
  if constexpr (rest > 0)
    for (int first = 0; first < used; first += R)
      weighted_values<R, DV, rest>(w + first * KB, values + whole * KB, factor + first, o + first * DV + whole,
                                   next.at + first * next.apart, span_of(spans, first / R));
}

// Spans of the columns that are kept by some of R queries at a time.
template <int R> INLINE void find_spans(const vi* kept, int used, Span* spans) {
  for (int first = 0; first < used; first += R) {
    Span span{KV, 0};
    for (int t = 0; t < KV; t++) {
      vi some = kept[first * KV + t];
      for (int s = first + 1; s < first + R && s < used; s++) some |= kept[s * KV + t];
      if (!any(some)) continue;
      if (span.from > t) span.from = t;
      span.to = t + 1;
    }
    if (span.to < span.from) span.from = span.to;
    spans[first / R] = span;
  }
}

// Columns R of w[rows][KB], times values[rows][S], added to o[R][DV].
template <int R, int DV, int S, int N> INLINE void added_columns(const float* w, const float* values, int rows, float* o) {
  vf sum[R][N];
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int n = 0; n < N; n++) sum[r][n] = ld(o + r * DV + n * V);
  _Pragma("GCC unroll 4") for (int s = 0; s < rows; s++) {
    vf v[N];
    UNROLL for (int n = 0; n < N; n++) v[n] = ld(values + s * S + n * V);
    UNROLL for (int r = 0; r < R; r++) {
      const vf p = bf(w[s * KB + r]);
      UNROLL for (int n = 0; n < N; n++) sum[r][n] += p * v[n];
    }
  }
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int n = 0; n < N; n++) st(o + r * DV + n * V, sum[r][n]);
}

// o[KB][DV] += w[rows][KB] transposed times values[rows][S].
template <int DV, int S> OUTLINE void column_sum(const float* w, const float* values, int rows, float* o) {
  constexpr int whole = DV / NR * NR, rest = (DV - whole) / V, R = 4;
  for (int j = 0; j < KB; j += R) {
    for (int d = 0; d < whole; d += NR) added_columns<R, DV, S, NV>(w + j, values + d, rows, o + j * DV + d);
    if constexpr (rest > 0) added_columns<R, DV, S, rest>(w + j, values + whole, rows, o + j * DV + whole);
  }
}

// A row of a tensor as floats, zeros where it does not exist and behind its end.
template <class T> INLINE void read_row(float* to, const T* from, int64_t stride, int n, int padded, bool exists) {
  if (!exists) {
    memset(to, 0, 4 * padded);
    return;
  }
  if (stride == 1 && sizeof(T) == 4) memcpy(to, from, 4 * n);
  else if (stride == 1) for (int d = 0; d < n; d++) to[d] = number(from[d]);
  else for (int d = 0; d < n; d++) to[d] = number(from[d * stride]);
  for (int d = n; d < padded; d++) to[d] = 0;
}

// Row j of a packed tile of values.
template <int DV, class T> INLINE void read_values(float* to, int j, const T* from, int64_t stride, int n, bool exists) {
  for (int d = 0; d < DV; d += NR) {
    const int width = d + NR <= DV ? NR : DV - d, here = n - d < width ? n - d : width;
    read_row(to + d * KB + j * width, exists ? from + d * stride : from, stride, here, width, exists);
  }
}

// V rows of V floats transposed in registers, by halves.
INLINE void transpose(vf x[V]) {
  for (int half = V / 2; half; half /= 2) {
    vi first, second;
    for (int n = 0; n < V; n++) {
      first[n] = n & half ? n - half + V : n;
      second[n] = n & half ? n + V : n + half;
    }
    UNROLL for (int a = 0; a < V; a++) {
      if (a & half) continue;
      const vf p = x[a], q = x[a + half];
      x[a] = __builtin_shuffle(p, q, first);
      x[a + half] = __builtin_shuffle(p, q, second);
    }
  }
}

// Rows [KB][D] of keys as blocks of [D][NR].
template <int D> INLINE void pack_keys(float* to, const float* rows) {
  for (int block = 0; block < KB / NR; block++)
    for (int n = 0; n < NV; n++) {
      const float* from = rows + (block * NR + n * V) * D;
      float* at = to + block * D * NR + n * V;
      int d = 0;
      for (; d + V <= D; d += V) {
        vf x[V];
        UNROLL for (int r = 0; r < V; r++) x[r] = ldu(from + r * D + d);
        transpose(x);
        UNROLL for (int r = 0; r < V; r++) st(at + (d + r) * NR, x[r]);
      }
      for (; d < D; d++) for (int r = 0; r < V; r++) at[d * NR + r] = from[r * D + d];
    }
}

template <class T> INLINE void write_row(T* to, int64_t at, vf x, int n) {
  for (int d = 0; d < V && d < n; d++) put(to + at + d, x[d]);
}
INLINE void write_row(float* to, int64_t at, vf x, int n) {
  if (n >= V) *(vfu*)(to + at) = x;
  else for (int d = 0; d < n; d++) to[at + d] = x[d];
}

// Work of one call; see cpp_launch.py, which fills it in.
struct Call {
  const int64_t* ints;
  void* const* ptrs;
  const double* reals;
  const int64_t* seqs;       // [groups * seqs per group][8]: b, first query, first key, N, M, q_offset, k_offset, column tile
  const int32_t* unit_seq;   // [units]
  const int32_t* unit_rows;  // [units][rows per head], -1 where there is none
  const int64_t* ranges;     // [range batches][range heads][units][2]: first run, number of runs
  const int32_t* items;      // [items][2]: unit and segment of its keys, the most work first
  const int32_t* unit_states;  // [units][2]: number of its first state, number of its segments
  const int32_t* runs;       // [..][4]: first key tile, how many, how far apart, whether full
  const int32_t* cols;       // [column tiles][KB], -1 where there is none
  const int32_t* col_seq;    // [column tiles]
  int64_t groups, units, col_tiles, seqs_per_group, rows_per_head, heads_per_tile, range_batches, range_heads;
  int64_t item_count, states, segment;  // states of one head; key tiles of a segment
  int64_t shared, threads;
  int64_t strands, heads_at_once;  // of stages with columns: strands of a head, and heads that run side by side
  void (*parallel)(void (*)(void*, int64_t, int64_t), void*, int64_t, int64_t);
};

struct Buffer {
  float* data = nullptr;
  size_t size = 0;
  float* get(size_t floats) {
    if (floats > size || !data) {
      free(data);
      data = (float*)aligned_alloc(64, (floats * 4 + 63) / 64 * 64);
      size = data ? floats : 0;
    }
    return data;
  }
};
