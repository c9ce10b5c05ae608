// Depth-wise convolutions and their gradients for training, used by compiled_training.py: `msfn_*` for the middle of half an
// MSFN (everything between its 1x1 convolutions), `depthwise_*` for a 3x3.
//
// Tensors are (B, H, W, C), channels last, C a multiple of 16, in float32 or bfloat16; kernels and sums are float32. A plane
// holds 16 channels of an image with a border of two zeros, (H + 4, W + 4, 16), so that all that is done to it stays in cache.
#include <cstdlib>
#include <cstring>
#include <vector>

typedef float V __attribute__((vector_size(64)));
typedef float U __attribute__((vector_size(64), aligned(4)));  // at any address
typedef int M __attribute__((vector_size(64)));

static inline V load(const float* p) { return *(const U*)p; }
static inline void store(float* p, V v) { *(U*)p = v; }
typedef unsigned short bf16;
typedef unsigned short H16 __attribute__((vector_size(32), aligned(2)));
typedef unsigned int I __attribute__((vector_size(64)));
static inline V load(const bf16* p) { return (V)(__builtin_convertvector(*(const H16*)p, I) << 16); }
static inline void store(bf16* p, V v) {
  I i = (I)v;
  i = (i + 0x7fff + ((i >> 16) & 1)) >> 16;
  *(H16*)p = __builtin_convertvector(i, H16);
}
static inline float one(const float* p) { return *p; }
static inline float one(const bf16* p) { unsigned int i = (unsigned int)*p << 16; float f; memcpy(&f, &i, 4); return f; }
static inline V positive(V v, V by) { M m = by > V{}; return (V)((M)v & m); }
static inline V relu(V v) { return positive(v, v); }

struct Size { int H, W, S; };  // S: stride of a row of a plane in V

// acc[i] += sum of K x K taps for pixels x .. x + N - 1 of row y
template <int K, int N>
static inline void taps(V* acc, const V* in, const V* w, const Size& z, int y, int x) {
  constexpr int R = K / 2;
  for (int dy = 0; dy < K; ++dy) {
    const V* row = in + (y + 2 + dy - R) * z.S + x + 2 - R;
    V v[N + K - 1];
#pragma GCC unroll 16
    for (int i = 0; i < N + K - 1; ++i) v[i] = row[i];
#pragma GCC unroll 16
    for (int dx = 0; dx < K; ++dx) {
      V k = w[dy * K + dx];
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) acc[i] += v[i + dx] * k;
    }
  }
}

template <class Sum, class End>
static inline void pixels(const Size& z, Sum sum, End end) {
  constexpr int N = 6;
  for (int y = 0; y < z.H; ++y) {
    int x = 0;
    for (; x + N <= z.W; x += N) {
      V acc[N] = {};
      sum.template operator()<N>(acc, y, x);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) end(acc[i], y, x + i);
    }
    for (; x < z.W; ++x) {
      V acc[1] = {};
      sum.template operator()<1>(acc, y, x);
      end(acc[0], y, x);
    }
  }
}

template <int K> struct One {
  const V* in; const V* w; Size z;
  template <int N> void operator()(V* acc, int y, int x) const { taps<K, N>(acc, in, w, z, y, x); }
};
template <int K, int L> struct Two {
  const V* in; const V* w; const V* in2; const V* w2; Size z;
  template <int N> void operator()(V* acc, int y, int x) const {
    taps<K, N>(acc, in, w, z, y, x);
    taps<L, N>(acc, in2, w2, z, y, x);
  }
};

static inline V* at(V* plane, const Size& z, int y, int x) { return plane + (y + 2) * z.S + x + 2; }
static inline const V* at(const V* plane, const Size& z, int y, int x) { return plane + (y + 2) * z.S + x + 2; }

// dw[t] += sum over pixels of in[pixel + t] * g[pixel]
template <int K>
static void kernel_gradient(const V* in, const V* g, float* dw, const Size& z) {
  constexpr int R = K / 2;
  V acc[K * K] = {};
  for (int y = 0; y < z.H; ++y)
    for (int x = 0; x < z.W; ++x) {
      V v = *at(g, z, y, x);
      const V* p = in + (y + 2 - R) * z.S + x + 2 - R;
#pragma GCC unroll 25
      for (int t = 0; t < K * K; ++t) acc[t] += p[(t / K) * z.S + t % K] * v;
    }
  for (int t = 0; t < K * K; ++t) { V d = load(dw + t * 16) + acc[t]; store(dw + t * 16, d); }
}

struct Planes {
  Size z; size_t each; V* memory;
  Planes(int H, int W, int count) : z{H, W, W + 4}, each((size_t)(H + 4) * (W + 4) + 1) {
    each += (each % 64 == 0) ? 3 : 0;
    memory = (V*)aligned_alloc(64, each * count * sizeof(V));
    memset(memory, 0, each * count * sizeof(V));
  }
  ~Planes() { free(memory); }
  V* operator[](int i) const { return memory + i * each; }
};

template <class T> static void gather(V* plane, const Size& z, const T* from, int C) {
  for (int y = 0; y < z.H; ++y)
    for (int x = 0; x < z.W; ++x) *at(plane, z, y, x) = load(from + ((size_t)y * z.W + x) * C);
}

template <int K> static void weights(V* w, const float* from, bool flip) {
  for (int t = 0; t < K * K; ++t) w[flip ? K * K - 1 - t : t] = load(from + t * 16);
}

template <int K> static void relu_conv(const V* in, const V* w, V* out, const Size& z) {
  pixels(z, One<K>{in, w, z}, [&](V v, int y, int x) { *at(out, z, y, x) = relu(v); });
}

// u (B, H, W, 2 E): E even channels, then E odd ones, E a multiple of 16; a and b are the ReLU of their 3x3 and 5x5
// convolutions. s (B, H, W, 2 E): E outputs from pairs of a, then E from pairs of b; each is the sum of an even and an odd
// channel's K x K convolution. Where the number of channels is odd, the middle output, number `middle`, is of the last even
// channel of a and the first one of b, and the pairs of b are an odd channel and the even one after it: shift is 1.
//
// w: eight kernels, each (E / 16, taps, 16): 3x3 of even and of odd channels, 5x5 of even and of odd channels (the latter one
// place later if shift is 1), K x K of a's even and odd channels, of b's even and odd channels.

static inline const float* chunk(const float* w, int m, int taps) { return w + (size_t)m * taps * 16; }
static inline float* chunk(float* w, int m, int taps) { return w + (size_t)m * taps * 16; }

// Reads chunk m of u into planes 0 to 2 and computes a and b from it, planes 3 to 6; the odd channels of the 5x5.
template <class T>
static const V* first_convolutions(const Planes& p, const T* u, const float* const* w, int m, int E, int shift) {
  const Size& z = p.z;
  V k3e[9], k3o[9], k5e[25], k5o[25];
  weights<3>(k3e, chunk(w[0], m, 9), false); weights<3>(k3o, chunk(w[1], m, 9), false);
  weights<5>(k5e, chunk(w[2], m, 25), false); weights<5>(k5o, chunk(w[3], m, 25), false);
  gather(p[0], z, u + 16 * m, 2 * E);
  gather(p[1], z, u + E + 16 * m, 2 * E);
  if (shift) gather(p[2], z, u + E + 16 * m - shift, 2 * E);
  const V* odd5 = shift ? p[2] : p[1];
  relu_conv<3>(p[0], k3e, p[3], z); relu_conv<3>(p[1], k3o, p[4], z);
  relu_conv<5>(p[0], k5e, p[5], z); relu_conv<5>(odd5, k5o, p[6], z);
  return odd5;
}

template <int K, class T>
static void forward(const T* u, const float* const* w, T* s, int B, int H, int W, int E, int shift, int middle) {
  const int C = 2 * E;
  Planes p(H, W, 7);
  const Size z = p.z;
  std::vector<float> mid(H * W);
  V *ae = p[3], *ao = p[4], *be = p[5], *bo = p[6];
  for (int b = 0; b < B; ++b) {
    const T* ub = u + (size_t)b * H * W * C;
    T* sb = s + (size_t)b * H * W * C;
    for (int m = 0; m < E / 16; ++m) {
      V pa[K * K], qa[K * K], pb[K * K], qb[K * K];
      weights<K>(pa, chunk(w[4], m, K * K), false); weights<K>(qa, chunk(w[5], m, K * K), false);
      weights<K>(pb, chunk(w[6], m, K * K), false); weights<K>(qb, chunk(w[7], m, K * K), false);
      const V* odd5 = first_convolutions(p, ub, w, m, E, shift);
      T *sa = sb + 16 * m, *s2 = sb + E + 16 * m;
      // The middle output is the sum of one channel of a and one of b.
      pixels(z, Two<K, K>{be, pb, bo, qb, z}, [&](V v, int y, int x) {
        if (m == 0 && middle >= 0) { mid[y * W + x] = v[0]; v[0] = 0; }
        store(s2 + ((size_t)y * W + x) * C, relu(v));
      });
      pixels(z, Two<K, K>{ae, pa, ao, qa, z}, [&](V v, int y, int x) {
        if (middle >= 0 && m == middle / 16) v[middle % 16] += mid[y * W + x];
        store(sa + ((size_t)y * W + x) * C, relu(v));
      });
    }
  }
}

template <int K, class T>
static void backward(const T* u, const float* const* w, const T* s, const T* gs, T* gu, float* const* dw,
                     int B, int H, int W, int E, int shift, int middle) {
  const int C = 2 * E;
  Planes p(H, W, 13);
  const Size z = p.z;
  V *ue = p[0], *uo = p[1], *ae = p[3], *ao = p[4], *be = p[5], *bo = p[6], *ga = p[7], *gb = p[8];
  V *gae = p[9], *gao = p[10], *gbe = p[11], *gbo = p[12];
  for (int b = 0; b < B; ++b) {
    const size_t first = (size_t)b * H * W * C;
    const T *ub = u + first, *sb = s + first, *gsb = gs + first;
    T* gub = gu + first;
    for (int m = 0; m < E / 16; ++m) {
      V pa[K * K], qa[K * K], pb[K * K], qb[K * K];
      weights<K>(pa, chunk(w[4], m, K * K), true); weights<K>(qa, chunk(w[5], m, K * K), true);
      weights<K>(pb, chunk(w[6], m, K * K), true); weights<K>(qb, chunk(w[7], m, K * K), true);
      const V* odd5 = first_convolutions(p, ub, w, m, E, shift);
      for (int y = 0; y < H; ++y)
        for (int x = 0; x < W; ++x) {
          const size_t i = ((size_t)y * W + x) * C;
          V va = positive(load(gsb + i + 16 * m), load(sb + i + 16 * m));
          V vb = positive(load(gsb + i + E + 16 * m), load(sb + i + E + 16 * m));
          if (m == 0 && middle >= 0) vb[0] = one(sb + i + middle) > 0 ? one(gsb + i + middle) : 0.f;
          *at(ga, z, y, x) = va;
          *at(gb, z, y, x) = vb;
        }
      pixels(z, One<K>{ga, pa, z}, [&](V v, int y, int x) { *at(gae, z, y, x) = positive(v, *at(ae, z, y, x)); });
      pixels(z, One<K>{ga, qa, z}, [&](V v, int y, int x) { *at(gao, z, y, x) = positive(v, *at(ao, z, y, x)); });
      pixels(z, One<K>{gb, pb, z}, [&](V v, int y, int x) { *at(gbe, z, y, x) = positive(v, *at(be, z, y, x)); });
      pixels(z, One<K>{gb, qb, z}, [&](V v, int y, int x) { *at(gbo, z, y, x) = positive(v, *at(bo, z, y, x)); });
      kernel_gradient<K>(ae, ga, chunk(dw[4], m, K * K), z); kernel_gradient<K>(ao, ga, chunk(dw[5], m, K * K), z);
      kernel_gradient<K>(be, gb, chunk(dw[6], m, K * K), z); kernel_gradient<K>(bo, gb, chunk(dw[7], m, K * K), z);
      kernel_gradient<3>(ue, gae, chunk(dw[0], m, 9), z); kernel_gradient<3>(uo, gao, chunk(dw[1], m, 9), z);
      kernel_gradient<5>(ue, gbe, chunk(dw[2], m, 25), z); kernel_gradient<5>(odd5, gbo, chunk(dw[3], m, 25), z);
      V k3e[9], k3o[9], k5e[25], k5o[25];
      weights<3>(k3e, chunk(w[0], m, 9), true); weights<3>(k3o, chunk(w[1], m, 9), true);
      weights<5>(k5e, chunk(w[2], m, 25), true); weights<5>(k5o, chunk(w[3], m, 25), true);
      T* to = gub + 16 * m;
      pixels(z, Two<3, 5>{gae, k3e, gbe, k5e, z}, [&](V v, int y, int x) { store(to + ((size_t)y * W + x) * C, v); });
      to = gub + E + 16 * m;
      if (shift) {
        pixels(z, One<3>{gao, k3o, z}, [&](V v, int y, int x) { store(to + ((size_t)y * W + x) * C, v); });
        to -= shift;
        pixels(z, One<5>{gbo, k5o, z}, [&](V v, int y, int x) {
          T* q = to + ((size_t)y * W + x) * C;
          store(q, load(q) + v);
        });
      } else {
        pixels(z, Two<3, 5>{gao, k3o, gbo, k5o, z}, [&](V v, int y, int x) { store(to + ((size_t)y * W + x) * C, v); });
      }
    }
  }
}

// A depth-wise 3x3 convolution, w (C / 16, 9, 16).
template <class T> static void depthwise_forward(const T* u, const float* w, float* s, int B, int H, int W, int C) {
  Planes p(H, W, 1);
  const Size z = p.z;
  for (int b = 0; b < B; ++b)
    for (int m = 0; m < C / 16; ++m) {
      V k[9];
      weights<3>(k, chunk(w, m, 9), false);
      gather(p[0], z, u + (size_t)b * H * W * C + 16 * m, C);
      float* to = s + (size_t)b * H * W * C + 16 * m;
      pixels(z, One<3>{p[0], k, z}, [&](V v, int y, int x) { store(to + ((size_t)y * W + x) * C, v); });
    }
}
template <class T> static void depthwise_backward(const T* u, const float* w, const float* gs, T* gu, float* dw, int B, int H, int W, int C) {
  Planes p(H, W, 2);
  const Size z = p.z;
  for (int b = 0; b < B; ++b)
    for (int m = 0; m < C / 16; ++m) {
      V k[9];
      weights<3>(k, chunk(w, m, 9), true);
      gather(p[0], z, u + (size_t)b * H * W * C + 16 * m, C);
      gather(p[1], z, gs + (size_t)b * H * W * C + 16 * m, C);
      T* to = gu + (size_t)b * H * W * C + 16 * m;
      pixels(z, One<3>{p[1], k, z}, [&](V v, int y, int x) { store(to + ((size_t)y * W + x) * C, v); });
      kernel_gradient<3>(p[0], p[1], chunk(dw, m, 9), z);
    }
}

#define BOTH(T, name) \
extern "C" void msfn_forward_##name(int k, const T* u, const float* const* w, T* s, int B, int H, int W, int E, int shift, int middle) { \
  (k == 3 ? forward<3, T> : forward<5, T>)(u, w, s, B, H, W, E, shift, middle); } \
extern "C" void msfn_backward_##name(int k, const T* u, const float* const* w, const T* s, const T* gs, T* gu, float* const* dw, \
  int B, int H, int W, int E, int shift, int middle) { \
  (k == 3 ? backward<3, T> : backward<5, T>)(u, w, s, gs, gu, dw, B, H, W, E, shift, middle); } \
extern "C" void depthwise_forward_##name(const T* u, const float* w, float* s, int B, int H, int W, int C) { depthwise_forward(u, w, s, B, H, W, C); } \
extern "C" void depthwise_backward_##name(const T* u, const float* w, const float* gs, T* gu, float* dw, int B, int H, int W, int C) { \
  depthwise_backward(u, w, gs, gu, dw, B, H, W, C); }
BOTH(float, f32)
BOTH(bf16, bf16)
