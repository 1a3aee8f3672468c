// Inner products and sums for few queries: rows of keys and values are read once, where they lie in their tensors.

// Elements n to n + COUNT of a row as floats; zeros behind them.
template <int COUNT> INLINE vf load(const float* p) {
  if constexpr (COUNT == V) return ldu(p);
  vf x{};
  memcpy(&x, p, 4 * COUNT);
  return x;
}
template <int COUNT> INLINE vf load(const bfloat* p) {
  typedef uint16_t bits __attribute__((vector_size(2 * V)));
  typedef uint32_t words __attribute__((vector_size(4 * V)));
  bits x{};
  memcpy(&x, p, 2 * COUNT);
  return (vf)(__builtin_convertvector(x, words) << 16);
}
template <int COUNT> INLINE vf load(const half* p) {
#if defined(__AVX512F__) || (defined(__F16C__) && defined(__AVX__))
  typedef int16_t bits __attribute__((vector_size(2 * V)));
  bits x{};
  memcpy(&x, p, 2 * COUNT);
#if defined(__AVX512F__)
  return (vf)__builtin_ia32_vcvtph2ps512_mask(x, vf{}, (unsigned short)-1, 4);
#else
  return (vf)__builtin_ia32_vcvtph2ps256(x);
#endif
#else
  vf x{};
  for (int n = 0; n < COUNT; n++) x[n] = number(p[n]);
  return x;
#endif
}

// The sums over the lanes of V vectors, as one vector.
INLINE vf sums(vf x[V]) {
  UNROLL for (int width = V / 2; width; width /= 2) {
    vi first, second;
    for (int n = 0; n < V; n++) {
      first[n] = n & width ? n - width + V : n;
      second[n] = n & width ? n + V : n + width;
    }
    UNROLL for (int a = 0; a < width; a++)
      x[a] = __builtin_shuffle(x[a], x[a + width], first) + __builtin_shuffle(x[a], x[a + width], second);
  }
  return x[0];
}

// Asks for a row that is read a tile later: the machine itself does not look beyond a page.
template <class T> INLINE void expect(const T* row, int elements) {
  UNROLL for (int d = 0; d < elements * (int)sizeof(T); d += 64) __builtin_prefetch((const char*)row + d, 0, 2);
}

constexpr int whole_vectors(int n) { return (n + V - 1) / V * V; }

// s[R][KB] = left[R][D] times rows of keys, V products at a time: those of R queries and V / R keys. The rows of
// `next`, of DN elements, are needed soon.
template <int R, int D, int DN, class T, class TN>
OUTLINE void row_products(const float* left, const T* const* rows, const TN* const* next, float* s) {
  constexpr int PD = whole_vectors(D), G = V / R;
  for (int j = 0; j < KB; j += G) {
    vf sum[V];
    UNROLL for (int n = 0; n < V; n++) sum[n] = vf{};
    UNROLL for (int g = 0; g < G; g++) expect(next[j + g], DN);
    _Pragma("GCC unroll 2") for (int d = 0; d < D / V * V; d += V) {
      vf k[G];
      UNROLL for (int g = 0; g < G; g++) k[g] = load<V>(rows[j + g] + d);
      UNROLL for (int r = 0; r < R; r++) {
        const vf q = ld(left + r * PD + d);
        UNROLL for (int g = 0; g < G; g++) sum[r * G + g] += q * k[g];
      }
    }
    if constexpr (D % V != 0)
      UNROLL for (int g = 0; g < G; g++) {
        const vf k = load<D % V>(rows[j + g] + D / V * V);
        UNROLL for (int r = 0; r < R; r++) sum[r * G + g] += ld(left + r * PD + D / V * V) * k;
      }
    const vf total = sums(sum);
    UNROLL for (int r = 0; r < R; r++) memcpy(s + r * KB + j, (const float*)&total + r * G, 4 * G);
  }
}

// N vectors of columns of a few rows of values; the last of them has LAST elements.
template <int R, int PD, int N, int LAST, int ROWS_AT_ONCE, class T>
INLINE void row_columns(const float* w, const T* const* rows, int64_t at, const float* factor, float* o) {
  vf sum[R][N];
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int n = 0; n < N; n++) {
    sum[r][n] = ld(o + r * PD + n * V);
    if (factor) sum[r][n] *= factor[r];
  }
  UNROLL for (int j = 0; j < ROWS_AT_ONCE; j++) {
    vf v[N];
    UNROLL for (int n = 0; n < N - 1; n++) v[n] = load<V>(rows[j] + at + n * V);
    v[N - 1] = load<LAST>(rows[j] + at + (N - 1) * V);
    UNROLL for (int r = 0; r < R; r++) {
      const vf p = bf(w[r * KB + j]);
      UNROLL for (int n = 0; n < N; n++) sum[r][n] += p * v[n];
    }
  }
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int n = 0; n < N; n++) st(o + r * PD + n * V, sum[r][n]);
}

// o[R][DV] = o * factor[R] + w[R][KB] times rows of values, which are read in order. Rows of DN elements, `ahead` of
// those of `next`, are needed soon.
template <int R, int DV, int DN, class T, class TN>
OUTLINE void row_sums(const float* w, const T* const* rows, const TN* const* next, int64_t ahead, const float* factor, float* o) {
  constexpr int PD = whole_vectors(DV), N = R > 4 ? 2 : 4, AT_ONCE = 8;
  constexpr int whole = DV / (N * V) * (N * V), rest = (DV - whole + V - 1) / V, last = DV % V ? DV % V : V;
  for (int j = 0; j < KB; j += AT_ONCE) {
    const float* f = j ? nullptr : factor;
    for (int n = 0; n < AT_ONCE; n++) expect((const TN*)((uintptr_t)next[j + n] + ahead * sizeof(TN)), DN);
    for (int d = 0; d < whole; d += N * V) row_columns<R, PD, N, V, AT_ONCE>(w + j, rows + j, d, f, o + d);
    if constexpr (rest > 0) row_columns<R, PD, rest, last, AT_ONCE>(w + j, rows + j, whole, f, o + whole);
  }
}
