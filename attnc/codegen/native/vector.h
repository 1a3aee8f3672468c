// Vectors of the machine this is compiled for, as GCC and clang know them, and functions on them and on numbers.
// NaN and infinity go through every function as IEEE 754 says; nothing here assumes that they do not occur.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
constexpr int V = 16, MR = 6, NV = 4;
#elif defined(__AVX__)
constexpr int V = 8, MR = 6, NV = 2;
#elif defined(__aarch64__)
constexpr int V = 4, MR = 6, NV = 4;
#else
constexpr int V = 4, MR = 4, NV = 2;
#endif
constexpr int NR = NV * V;

typedef float vf __attribute__((vector_size(4 * V)));
typedef float vfu __attribute__((vector_size(4 * V), aligned(4)));
typedef int32_t vi __attribute__((vector_size(4 * V)));
typedef int32_t viu __attribute__((vector_size(4 * V), aligned(4)));
typedef int64_t vh __attribute__((vector_size(4 * V)));
#define UNROLL _Pragma("GCC unroll 16")
#define INLINE static inline __attribute__((always_inline))
#define OUTLINE static __attribute__((noinline))  // compiled once, wherever it is called from

// Ints of 64 bits in two vectors of the machine's size: compilers take vectors of twice that size to pieces, slowly.
struct vl {
  vh low, high;
};
INLINE int32_t lane(vi x, int n) { return x[n]; }
INLINE float lane(vf x, int n) { return x[n]; }
INLINE int64_t lane(vl x, int n) { return n < V / 2 ? x.low[n] : x.high[n - V / 2]; }
// From an array: GCC 12 loses what is written lane by lane into two vectors at once.
template <class F> INLINE vl lanes(F f) {
  int64_t y[V];
  vl x;
  for (int n = 0; n < V; n++) y[n] = f(n);
  memcpy(&x, y, sizeof x);
  return x;
}
// What `f` tells of each of the queries from `first` on.
template <class T, class F> INLINE T queries(F f, int first) {
  if constexpr (sizeof(T) > 4 * V) {
    return lanes([&](int n) { return (int64_t)f(first + n); });
  } else {
    T x;
    for (int n = 0; n < V; n++) x[n] = f(first + n);
    return x;
  }
}
INLINE vl bl(int64_t x) { return {vh{} + x, vh{} + x}; }
#define ON_HALVES(OP) \
  INLINE vl operator OP(vl a, vl b) { return {a.low OP b.low, a.high OP b.high}; } \
  INLINE vl operator OP(vl a, int64_t b) { return a OP bl(b); }
ON_HALVES(+) ON_HALVES(-) ON_HALVES(*) ON_HALVES(/) ON_HALVES(&)
ON_HALVES(<) ON_HALVES(<=) ON_HALVES(>) ON_HALVES(>=) ON_HALVES(==) ON_HALVES(!=)
INLINE vl operator-(vl a) { return {-a.low, -a.high}; }
INLINE vl operator>>(vl a, int n) { return {a.low >> n, a.high >> n}; }

INLINE vf ld(const float* p) { return *(const vf*)p; }
INLINE vf ldu(const float* p) { return *(const vfu*)p; }
INLINE void st(float* p, vf x) { *(vf*)p = x; }
INLINE void st(int32_t* p, vi x) { *(vi*)p = x; }
INLINE void st(int64_t* p, vl x) { memcpy(p, &x, sizeof x); }
INLINE vf bf(float x) { return x - vf{}; }  // not x + 0, which would turn -0 into 0: this is a mere copy
INLINE vi bi(int64_t x) { return vi{} + (int32_t)x; }
INLINE vi bb(bool x) { return vi{} - (int32_t)x; }
INLINE vl wide(vi x) {
  typedef int32_t vq __attribute__((vector_size(2 * V)));
  vq low, high;
  memcpy(&low, &x, sizeof low);
  memcpy(&high, (const char*)&x + sizeof low, sizeof high);
  return {__builtin_convertvector(low, vh), __builtin_convertvector(high, vh)};
}
INLINE vl wide(vl x) { return x; }
INLINE int64_t wide(int64_t x) { return x; }
INLINE vi narrow(vl x) {  // the low half of every number
  vi even;
  for (int n = 0; n < V; n++) even[n] = 2 * n;
  return __builtin_shuffle((vi)x.low, (vi)x.high, even);
}
INLINE vf real(vi x) { return __builtin_convertvector(x, vf); }
INLINE vf real(vl x) { vf y; for (int n = 0; n < V; n++) y[n] = (float)lane(x, n); return y; }
INLINE float real(int64_t x) { return (float)x; }
INLINE bool not_(bool x) { return !x; }
INLINE vi not_(vi x) { return ~x; }

INLINE float sel(bool c, float a, float b) { return c ? a : b; }
INLINE int64_t sel(bool c, int64_t a, int64_t b) { return c ? a : b; }
INLINE bool sel(bool c, bool a, bool b) { return c ? a : b; }
INLINE vf sel(vi c, vf a, vf b) { return c ? a : b; }
INLINE vi sel(vi c, vi a, vi b) { return c ? a : b; }
INLINE vl pick(vl c, vl a, vl b) { return {c.low ? a.low : b.low, c.high ? a.high : b.high}; }
INLINE vl sel(vi c, vl a, vl b) { return pick(wide(c), a, b); }

// A NaN in either operand of a minimum or maximum gives NaN.
INLINE vf max_(vf a, vf b) { vf m = a > b ? a : b; return a == a ? m : a; }
INLINE vf min_(vf a, vf b) { vf m = a < b ? a : b; return a == a ? m : a; }
INLINE float max_(float a, float b) { return a != a ? a : a > b ? a : b; }
INLINE float min_(float a, float b) { return a != a ? a : a < b ? a : b; }
INLINE vi max_(vi a, vi b) { return a > b ? a : b; }
INLINE vi min_(vi a, vi b) { return a < b ? a : b; }
INLINE vl max_(vl a, vl b) { return pick(a > b, a, b); }
INLINE vl min_(vl a, vl b) { return pick(a < b, a, b); }
INLINE int64_t max_(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t min_(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE vf abs_(vf x) { return (vf)((vi)x & 0x7fffffff); }
INLINE float abs_(float x) { return fabsf(x); }
INLINE vi abs_(vi x) { return x < 0 ? -x : x; }
INLINE vl abs_(vl x) { return pick(x < 0, -x, x); }
INLINE int64_t abs_(int64_t x) { return x < 0 ? -x : x; }
template <class T> INLINE T sign_(T x) { return x > 0 ? T{} + 1 : x < 0 ? T{} - 1 : T{}; }
INLINE vl sign_(vl x) { return pick(x > 0, bl(1), pick(x < 0, bl(-1), bl(0))); }
template <class T> INLINE T relu_(T x) { return max_(x, T{}); }

// Rounded toward minus infinity, for divisors above 0.
INLINE int64_t floordiv(int64_t a, int64_t b) { int64_t q = a / b; return q * b > a ? q - 1 : q; }
INLINE vl floordiv(vl a, vl b) { const vl q = a / b; return pick(q * b > a, q - 1, q); }
INLINE vi floordiv(vi a, vi b) {
  // Twice by the reciprocal: the second time the rest is small, so that its quotient is off by one at most.
  const vf inverse = 1.0f / real(b);
  vi q = __builtin_convertvector(real(a) * inverse, vi);
  vi r = a - q * b;
  const vi more = __builtin_convertvector(real(r) * inverse, vi);
  q += more;
  r -= more * b;
  q = r < 0 ? q - 1 : q;
  r = r < 0 ? r + b : r;
  return r >= b ? q + 1 : q;
}
template <class T> INLINE T floormod(T a, T b) { return a - floordiv(a, b) * b; }
INLINE int64_t bit_length(int64_t x) {
  uint64_t y = x < 0 ? -(uint64_t)x : x;
  return y ? 64 - __builtin_clzll(y) : 0;
}
INLINE vi bit_length(vi x) { for (int n = 0; n < V; n++) x[n] = bit_length((int64_t)x[n]); return x; }
INLINE vl bit_length(vl x) { return lanes([&](int n) { return bit_length(lane(x, n)); }); }

INLINE vf floor_(vf x) {
  vf t = real(__builtin_convertvector(x, vi));
  t = t > x ? t - 1.0f : t;
  return abs_(x) < 8388608.0f ? t : x;
}
INLINE float floor_(float x) { return floorf(x); }
INLINE int64_t integer(float x) { return (int64_t)floorf(x); }
INLINE vi integer(vf x) { return __builtin_convertvector(floor_(x), vi); }

// 2^f for |f| at most a little above 1/2.
INLINE vf exp2_near_zero(vf f) {
  vf p = bf(1.535336188319500e-4f);
  p = p * f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  return p * f + 1.0f;
}
#if defined(__AVX512F__) && !defined(__clang__)
INLINE vf nearest(vf x) { return (vf)__builtin_ia32_rndscaleps_mask(x, 0, x, (unsigned short)-1, 4); }
INLINE vf at_most(float high, vf x) { return (vf)__builtin_ia32_minps512_mask(bf(high), x, x, (unsigned short)-1, 4); }
INLINE vf scaled_or_zero(vf p, vf n, vf x, float low) {  // 0 where x is below `low`
  const unsigned short above = __builtin_ia32_cmpps512_mask(x, bf(low), 5, (unsigned short)-1, 4);
  return (vf)__builtin_ia32_scalefps512_mask(p, n, vf{}, above, 4);
}
INLINE vf range(float low, float high, vf x) { return at_most(high, x); }  // far below, the result is replaced by 0
#else
INLINE vf nearest(vf x) { return (x + 12582912.0f) - 12582912.0f; }
INLINE vf scaled(vf p, vf n) {
  const vi e = __builtin_convertvector(n, vi), half = e >> 1;
  const vf r = p * (vf)((half + 127) << 23) * (vf)((e - half + 127) << 23);
  return p == p ? r : p;
}
INLINE vf range(float low, float high, vf x) {
  const vf y = bf(low) > x ? bf(low) : x;
  return bf(high) < y ? bf(high) : y;
}
INLINE vf scaled_or_zero(vf p, vf n, vf x, float low) { return x < low ? vf{} : scaled(p, n); }
#endif
// 2^x and e^x to one unit in the last place (1.2 where nothing multiplies and adds at once), 0 below 2^-126; NaN and infinity as they should be.
INLINE vf exp2_(vf x) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && !defined(__clang__)
  const vf rest = (vf)__builtin_ia32_reduceps512_mask(x, 0, x, (unsigned short)-1);  // x - nearest(x), 0 for infinity
  return scaled_or_zero(exp2_near_zero(rest), nearest(x), x, -126.0f);
#else
  const vf y = range(-127.0f, 129.0f, x), n = nearest(y);
  return scaled_or_zero(exp2_near_zero(y - n), n, x, -126.0f);
#endif
}
INLINE vf exp_(vf x) {
  const vf y = range(-89.0f, 90.0f, x), n = nearest(y * 1.44269504f);
  const vf f = (y - n * 0.693359375f) + n * 2.12194440e-4f;  // log 2 in two parts
  return scaled_or_zero(exp2_near_zero(f * 1.44269504f), n, x, -87.3365448f);
}
INLINE float exp2_(float x) { return exp2_(bf(x))[0]; }  // no call, which would spill all vectors
// log2 to two units in the last place.
INLINE vf log2_(vf x) {
  const vi tiny = x < 1.17549435e-38f;
  const vf scaled = tiny ? x * 8388608.0f : x;
  const vi bits = (vi)scaled;
  vi e = ((bits - 0x3f3504f3) >> 23);
  const vf m = (vf)(bits - (e << 23)) - 1.0f;
  vf p = bf(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const vf z = m * m;
  const vf tail = m * z * p - 0.5f * z;
  e = tiny ? e - 23 : e;
  const float extra = 0.44269504088896340735992f;
  vf r = tail * extra + m * extra + tail + m + real(e);
  r = x == 0.0f ? bf(-INFINITY) : r;
  r = x < 0.0f ? bf(NAN) : r;
  return (x == x) & (x != INFINITY) ? r : x < 0.0f ? bf(NAN) : x;
}
INLINE float log2_(float x) { return log2f(x); }
INLINE float exp_(float x) { return exp_(bf(x))[0]; }
INLINE vf log_(vf x) { return log2_(x) * 0.6931471805599453f; }
INLINE float log_(float x) { return logf(x); }
INLINE float log1p_(float x) { return log1pf(x); }
INLINE vf log1p_(vf x) {
  const vf u = 1.0f + x;
  const vi exact = u == 1.0f;
  const vf d = exact ? bf(1.0f) : u - 1.0f;
  return (exact | (u == INFINITY)) ? x : log_(u) * (x / d);
}
INLINE float sqrt_(float x) { return sqrtf(x); }
INLINE vf sqrt_(vf x) { for (int n = 0; n < V; n++) x[n] = sqrtf(x[n]); return x; }
INLINE float sin_(float x) { return sinf(x); }
INLINE vf sin_(vf x) { for (int n = 0; n < V; n++) x[n] = sinf(x[n]); return x; }
INLINE float cos_(float x) { return cosf(x); }
INLINE vf cos_(vf x) { for (int n = 0; n < V; n++) x[n] = cosf(x[n]); return x; }
// Rotations: how far pair n turns per position, in turns, and the angle at a position, all but the last step in double.
INLINE double turns(int64_t n, int64_t count, double theta) { return pow(theta, -2.0 * n / count) / 6.283185307179586; }
INLINE float rest_of_turn(double x) { return (float)((x - floor(x)) * 6.283185307179586); }
INLINE float angle(int64_t position, double per) { return rest_of_turn(position * per); }
INLINE float angle(float position, double per) { return rest_of_turn(position * per); }
template <class T> INLINE vf angle(T position, double per) {
  vf x;
  for (int n = 0; n < V; n++) x[n] = rest_of_turn(lane(position, n) * per);
  return x;
}
INLINE float power(float x, float y) { return powf(x, y); }
INLINE vf power(vf x, vf y) { for (int n = 0; n < V; n++) x[n] = powf(x[n], y[n]); return x; }
INLINE int64_t power(int64_t x, int64_t y) { int64_t r = 1; while (y-- > 0) r *= x; return r; }
INLINE float tanh_(float x) { return tanhf(x); }
INLINE vf tanh_(vf x) {
  const vf a = abs_(x), z = x * x;
  vf p = -5.70498872745e-3f * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const vf e = exp2_(a * -2.8853900817779268f);
  const vf far = (1.0f - e) / (1.0f + e);
  return a < 0.625f ? x + x * z * p : x < 0.0f ? -far : far;
}
INLINE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exp_(-x)); }
INLINE float softplus(float x) { return max_(x, 0.0f) + log1pf(expf(-fabsf(x))); }
INLINE vf softplus(vf x) { return max_(x, vf{}) + log1p_(exp_(-abs_(x))); }
INLINE float elu(float x) { return x > 0 ? x : expm1f(x); }
INLINE vf elu(vf x) { for (int n = 0; n < V; n++) x[n] = elu(x[n]); return x; }

// Lane n: what the lanes of vector n of [V][V] come to.
template <class F> INLINE vf reduce_each(const float* rows, F combine) {
  vf x[V];
  UNROLL for (int n = 0; n < V; n++) x[n] = ld(rows + n * V);
  for (int half = V / 2; half; half /= 2) {
    vi first, second;
    for (int n = 0; n < V; n++) {
      first[n] = n & half ? n - half + V : n;
      second[n] = n & half ? n + V : n + half;
    }
    UNROLL for (int a = 0; a < half; a++) {
      const vf p = x[a], q = x[a + half];
      x[a] = combine(__builtin_shuffle(p, q, first), __builtin_shuffle(p, q, second));
    }
  }
  return x[0];
}
INLINE bool any(vi x) {
#if defined(__AVX512F__) && !defined(__clang__)
  return __builtin_ia32_ptestmd512(x, x, (unsigned short)-1);
#else
  int32_t some = 0;
  for (int n = 0; n < V; n++) some |= x[n];
  return some;
#endif
}
INLINE vf greater(vf a, vf b) { return a > b ? a : b; }
INLINE vf less(vf a, vf b) { return a < b ? a : b; }

// -- elements of tensors ----------------------------------------------------------------------------------------------

struct half { uint16_t bits; };
struct bfloat { uint16_t bits; };
INLINE float number(float x) { return x; }
INLINE float number(double x) { return (float)x; }
INLINE float number(bfloat x) { uint32_t b = (uint32_t)x.bits << 16; float f; memcpy(&f, &b, 4); return f; }
INLINE float number(half x) { _Float16 h; memcpy(&h, &x, 2); return (float)h; }
INLINE int64_t number(int64_t x) { return x; }
INLINE int64_t number(int32_t x) { return x; }
INLINE int64_t number(int16_t x) { return x; }
INLINE int64_t number(int8_t x) { return x; }
INLINE bool number(uint8_t x) { return x != 0; }
INLINE void put(float* p, float x) { *p = x; }
INLINE void put(bfloat* p, float x) {
  uint32_t b;
  memcpy(&b, &x, 4);
  p->bits = x != x ? 0x7fc0 : (b + 0x7fff + ((b >> 16) & 1)) >> 16;
}
INLINE void put(half* p, float x) { _Float16 h = (_Float16)x; memcpy(p, &h, 2); }

INLINE vl features(int t) { return lanes([&](int n) { return (int64_t)(t * V + n); }); }
INLINE int64_t clamp(int64_t x, int64_t size) { return x < 0 ? 0 : x < size ? x : size - 1; }
INLINE vl clamp(vl x, int64_t size) { return max_(min_(x, bl(size - 1)), bl(0)); }
template <class T> INLINE auto look(const T* p, int64_t at, bool exists) -> decltype(number(*p)) {
  return exists ? number(p[at]) : decltype(number(*p)){};
}
template <class T> INLINE vf look_real(const T* p, vl at, bool exists) {
  vf x{};
  if (exists) for (int n = 0; n < V; n++) x[n] = number(p[lane(at, n)]);
  return x;
}
template <class T> INLINE vi look_int(const T* p, vl at, bool exists) {
  vi x{};
  if (exists) for (int n = 0; n < V; n++) x[n] = (int32_t)number(p[lane(at, n)]);
  return x;
}
template <class T> INLINE vl look_wide(const T* p, vl at, bool exists) {
  return exists ? lanes([&](int n) { return (int64_t)number(p[lane(at, n)]); }) : vl{};
}
INLINE void scatter(float* table, vl at, vf x, bool exists) {
  if (exists) for (int n = 0; n < V; n++) if (x[n] != 0) table[lane(at, n)] += x[n];
}
template <class T> INLINE vi look_bool(const T* p, vl at, bool exists) {
  vi x{};
  if (exists) for (int n = 0; n < V; n++) x[n] = -(int32_t)number(p[lane(at, n)]);
  return x;
}
