/* One pass over memory where PyTorch's operators take several. REAL is float or double, given on the command line.
 *
 * A batch is N samples of M = P * C numbers, the channel running fastest (channels last). All loops over elements go
 * in vectors of W lanes; a channel pattern repeats after L = lcm(C, W) elements, so that what belongs to a channel is
 * laid out once for L lanes. What is left of a sample after whole patterns is done one element at a time.
 */
#include <cmath>
#include <cstdint>
#include <cstdlib>

#define BYTES 64
#define W ((int64_t)(BYTES / sizeof(REAL)))
typedef REAL vec __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));

static inline vec load(const REAL *p) { return *(const vec *)p; }
static inline void store(REAL *p, vec v) { *(vec *)p = v; }
static inline vec splat(REAL x) { return x - vec{0}; }
static inline double total(vec v) {
    double sum = 0;
    for (int64_t i = 0; i < W; i++) sum += v[i];
    return sum;
}

/* Where a run of sums in REAL ends; they are carried on in double, for a long sum in single precision loses digits. */
static inline int64_t run(int64_t at, int64_t end, int64_t each = 1) {
    return at + 128 * each < end ? at + 128 * each : end;
}

static int64_t gcd(int64_t a, int64_t b) { return b ? gcd(b, a % b) : a; }

/* LeakyReLU of sign * u. A NaN stays one. */
static inline vec leaky(vec u, vec sign, vec slope) {
    vec v = u * sign;
    return v > 0 ? v : v * slope;
}
static inline REAL leaky1(REAL u, REAL sign, REAL slope) {
    REAL v = u * sign;
    return v > 0 ? v : v * slope;
}

/* The channel of a lane: the lanes are the channels themselves where C is a multiple of W, and divisions are dear. */
static inline int64_t channel(int64_t lane, int64_t C) { return lane < C ? lane : lane % C; }

static int64_t *lane_groups(int64_t L, int64_t C, int64_t D) {
    int64_t *group = (int64_t *)malloc(L * sizeof(int64_t));
    for (int64_t i = 0; i < L; i++) group[i] = channel(i, C) / D;
    return group;
}

/* What a thread needs to normalise samples. */
struct Norm {
    const REAL *weight, *bias;
    int64_t P, C, G, D, M, L, blocks, rest;
    double eps;
    REAL sign, slope;
    REAL *scale, *shift;
    double *sums, *squares, *guess;
    int64_t *group;

    Norm(const REAL *weight, const REAL *bias, int64_t P, int64_t C, int64_t G, double eps, double sign, double slope)
        : weight(weight), bias(bias), P(P), C(C), G(G), D(C / G), M(P * C), L(C / gcd(C, W) * W), blocks(M / L),
          rest(blocks * L), eps(eps), sign((REAL)sign), slope((REAL)slope) {
        scale = (REAL *)malloc(2 * L * sizeof(REAL)), shift = scale + L;
        sums = (double *)malloc(3 * G * sizeof(double)), squares = sums + G, guess = sums + 2 * G;
        group = lane_groups(L, C, D);
    }
    ~Norm() { free(scale), free(sums), free(group); }

    /* out = GroupNorm(LeakyReLU(sign * x)) of one sample; its G means and inverse deviations. */
    void operator()(const REAL *x, REAL *out, REAL *mean, REAL *rstd) {
        const vec sign = splat(this->sign), slope = splat(this->slope);
        /* Both moments in one pass, about a first guess of the mean, so that nothing cancels. */
        for (int64_t g = 0; g < G; g++) guess[g] = sums[g] = squares[g] = 0;
        const int64_t few = blocks < 4 ? blocks : 4;
        for (int64_t j = 0; j < L; j += W) {
            vec a = {0};
            for (int64_t k = 0; k < few; k++) a += leaky(load(x + k * L + j), sign, slope);
            for (int64_t i = 0; i < W; i++) guess[group[j + i]] += a[i];
        }
        for (int64_t g = 0; g < G; g++)
            guess[g] = few ? guess[g] / ((double)(few * L) / (double)G) : leaky1(x[g * D], this->sign, this->slope);
        for (int64_t i = 0; i < L; i++) shift[i] = (REAL)guess[group[i]];
        for (int64_t j = 0; j < L; j += W) {
            const vec m = load(shift + j);
            for (int64_t k = 0; k < blocks;) {
                const int64_t stop = run(k, blocks);
                vec a = {0}, b = {0}, c = {0}, d = {0};
                for (; k + 2 <= stop; k += 2) {
                    vec p = leaky(load(x + k * L + j), sign, slope) - m;
                    vec q = leaky(load(x + (k + 1) * L + j), sign, slope) - m;
                    a += p, b += q, c += p * p, d += q * q;
                }
                for (; k < stop; k++) {
                    vec p = leaky(load(x + k * L + j), sign, slope) - m;
                    a += p, c += p * p;
                }
                a += b, c += d;
                for (int64_t i = 0; i < W; i++) sums[group[j + i]] += a[i], squares[group[j + i]] += c[i];
            }
        }
        for (int64_t e = rest; e < M; e++) {
            const int64_t g = e % C / D;
            const double p = leaky1(x[e], this->sign, this->slope) - (REAL)guess[g];
            sums[g] += p, squares[g] += p * p;
        }
        for (int64_t g = 0; g < G; g++) {
            sums[g] /= (double)(P * D);
            squares[g] -= sums[g] * sums[g] * (double)(P * D);
            squares[g] = squares[g] < 0 ? 0 : squares[g];
            mean[g] = (REAL)(sums[g] + (REAL)guess[g]);
            rstd[g] = (REAL)(1 / std::sqrt(squares[g] / (double)(P * D) + eps));
        }
        for (int64_t i = 0; i < L; i++) {
            const int64_t c = channel(i, C);
            scale[i] = rstd[group[i]] * weight[c];
            shift[i] = bias[c] - mean[group[i]] * scale[i];
        }
        for (int64_t k = 0; k < rest; k += L)
            for (int64_t j = 0; j < L; j += W)
                store(out + k + j, leaky(load(x + k + j), sign, slope) * load(scale + j) + load(shift + j));
        for (int64_t e = rest; e < M; e++)
            out[e] = leaky1(x[e], this->sign, this->slope) * scale[e % C] + shift[e % C];
    }
};

/* y = GroupNorm(LeakyReLU(sign * u)); mean and rstd, (N, G), are left for the backward pass. */
extern "C" void act_norm(const REAL *u, const REAL *weight, const REAL *bias, REAL *y, REAL *mean, REAL *rstd,
                         int64_t N, int64_t P, int64_t C, int64_t G, double eps, double sign, double slope,
                         int threads) {
    const int64_t M = P * C;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Norm norm(weight, bias, P, C, G, eps, sign, slope);
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) norm(u + n * M, y + n * M, mean + n * G, rstd + n * G);
    }
}

/* One sample: out = base + scale * t from `start` on, M numbers, t = sum_k weights[k] * terms[k]; <along, t>. */
static inline double sum_one(const REAL *base, REAL scale, const REAL *const *terms, const double *weights, int64_t K,
                             REAL *out, const REAL *along, int64_t start, int64_t M) {
    const int64_t whole = M / (2 * W) * 2 * W;
    const vec s = splat(scale);
    double dot = 0;
    for (int64_t e = 0; e < whole;) {
        const int64_t stop = run(e, whole, 2 * W);
        vec d0 = {0}, d1 = {0};
        for (; e < stop; e += 2 * W) {
            vec a = {0}, b = {0};
            for (int64_t k = 0; k < K; k++) {
                const vec w = splat((REAL)weights[k]);
                a += w * load(terms[k] + start + e);
                b += w * load(terms[k] + start + e + W);
            }
            if (along) d0 += a * load(along + start + e), d1 += b * load(along + start + e + W);
            a *= s, b *= s;
            if (base) a += load(base + start + e), b += load(base + start + e + W);
            store(out + e, a);
            store(out + e + W, b);
        }
        if (along) dot += total(d0) + total(d1);
    }
    for (int64_t e = whole; e < M; e++) {
        REAL a = 0;
        for (int64_t k = 0; k < K; k++) a += (REAL)weights[k] * terms[k][start + e];
        if (along) dot += (double)a * along[start + e];
        out[e] = a * scale + (base ? base[start + e] : 0);
    }
    return dot;
}

/* The gradient of act_norm to u and, where dweight is given, to weight and bias, (N, C) per sample. That of its result is
 * summed here, as by weighted_sum, and nowhere kept; it is `base` where there are no terms. */
extern "C" void act_norm_back(const REAL *base, const double *scale, const REAL *const *terms, const double *weights,
                              int64_t K, const REAL *along, double *dots, const REAL *u, const REAL *weight,
                              const REAL *mean, const REAL *rstd, REAL *du, REAL *dweight, REAL *dbias, int64_t N,
                              int64_t P, int64_t C, int64_t G, double sign_, double slope_, int threads) {
    const int64_t M = P * C, L = C / gcd(C, W) * W, blocks = M / L, rest = blocks * L, D = C / G;
    const vec sign = splat((REAL)sign_), slope = splat((REAL)slope_), steep = splat((REAL)(sign_ * slope_));
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        REAL *lanes = (REAL *)malloc(4 * L * sizeof(REAL));
        REAL *centre = lanes, *kg = lanes + L, *kv = lanes + 2 * L, *k0 = lanes + 3 * L;
        double *sums = (double *)malloc(2 * (C + G) * sizeof(double));
        double *sg = sums, *sx = sums + C, *A = sums + 2 * C, *B = A + G;
        int64_t *group = lane_groups(L, C, D);
        REAL *here = K ? (REAL *)malloc(M * sizeof(REAL)) : NULL;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            const REAL *x = u + n * M, *g = K ? here : base + n * M;
            REAL *out = du + n * M;
            if (K) {
                const double dot = sum_one(base, (REAL)scale[n], terms, weights, K, here, along, n * M, M);
                if (along) dots[n] += dot;
            }
            for (int64_t c = 0; c < C; c++) sg[c] = sx[c] = 0;
            for (int64_t i = 0; i < G; i++) A[i] = B[i] = 0;
            for (int64_t i = 0; i < L; i++) centre[i] = mean[n * G + group[i]];
            for (int64_t j = 0; j < L; j += W) {
                const vec m = load(centre + j);
                for (int64_t k = 0; k < blocks;) {
                    const int64_t stop = run(k, blocks);
                    vec a = {0}, b = {0}, c = {0}, d = {0};
                    for (; k + 2 <= stop; k += 2) {
                        vec p = load(g + k * L + j), q = load(g + (k + 1) * L + j);
                        a += p, c += q;
                        b += p * (leaky(load(x + k * L + j), sign, slope) - m);
                        d += q * (leaky(load(x + (k + 1) * L + j), sign, slope) - m);
                    }
                    for (; k < stop; k++) {
                        vec p = load(g + k * L + j);
                        a += p;
                        b += p * (leaky(load(x + k * L + j), sign, slope) - m);
                    }
                    a += c, b += d;
                    for (int64_t i = 0; i < W; i++) sg[channel(j + i, C)] += a[i], sx[channel(j + i, C)] += b[i];
                }
            }
            for (int64_t e = rest; e < M; e++) {
                const int64_t c = e % C;
                sg[c] += g[e];
                sx[c] += (double)g[e] * (leaky1(x[e], (REAL)sign_, (REAL)slope_) - mean[n * G + c / D]);
            }
            for (int64_t c = 0; c < C; c++) {
                const int64_t i = group[c];
                A[i] += weight[c] * sg[c];
                B[i] += weight[c] * sx[c] * rstd[n * G + i];
                if (dweight) {
                    dweight[n * C + c] = (REAL)(sx[c] * rstd[n * G + i]);
                    dbias[n * C + c] = (REAL)sg[c];
                }
            }
            for (int64_t i = 0; i < L; i++) {
                const int64_t c = channel(i, C), j = n * G + group[i];
                const double r = rstd[j], v = -r * r * B[group[i]] / (double)(P * D);
                kg[i] = (REAL)(r * weight[c]);
                kv[i] = (REAL)v;
                k0[i] = (REAL)(-r * A[group[i]] / (double)(P * D) - mean[j] * v);
            }
            for (int64_t k = 0; k < rest; k += L)
                for (int64_t j = 0; j < L; j += W) {
                    vec p = load(x + k + j) * sign;
                    vec v = p > 0 ? p : p * slope;
                    vec d = load(g + k + j) * load(kg + j) + v * load(kv + j) + load(k0 + j);
                    store(out + k + j, p > 0 ? d * sign : d * steep);
                }
            for (int64_t e = rest; e < M; e++) {
                const int64_t c = e % C;
                REAL p = x[e] * (REAL)sign_, v = p > 0 ? p : p * (REAL)slope_;
                REAL d = g[e] * kg[c] + v * kv[c] + k0[c];
                out[e] = p > 0 ? d * (REAL)sign_ : d * (REAL)(sign_ * slope_);
            }
        }
        free(lanes), free(sums), free(group), free(here);
    }
}

/* out = base + scale[n] * t, t = sum_k weights[k] * terms[k]; base may be missing. With `along`, dots[n] += <along, t>.
 * Sample n takes its weights from n * own on: own is 0 where all have the same, K where each has its own. */
extern "C" void weighted_sum(const REAL *base, const double *scale, const REAL *const *terms, const double *weights,
                             int64_t K, int64_t own, REAL *out, const REAL *along, double *dots, int64_t N, int64_t M,
                             int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < N; n++) {
        const double dot =
            sum_one(base, (REAL)scale[n], terms, weights + n * own, K, out + n * M, along, n * M, M);
        if (along) dots[n] += dot;
    }
}

/* x = base + scale[n] * t as above, kept where x is given; y = GroupNorm(x), while the sample is still in the cache. */
extern "C" void sum_norm(const REAL *base, const double *scale, const REAL *const *terms, const double *weights,
                         int64_t K, REAL *x, const REAL *weight, const REAL *bias, REAL *y, REAL *mean, REAL *rstd,
                         int64_t N, int64_t P, int64_t C, int64_t G, double eps, int threads) {
    const int64_t M = P * C;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Norm norm(weight, bias, P, C, G, eps, 1, 1);
        REAL *here = x ? NULL : (REAL *)malloc(M * sizeof(REAL));
#pragma omp for schedule(static)
        for (int64_t n = 0; n < N; n++) {
            REAL *at = x ? x + n * M : here;
            sum_one(base, (REAL)scale[n], terms, weights, K, at, NULL, n * M, M);
            norm(at, y + n * M, mean + n * G, rstd + n * G);
        }
        free(here);
    }
}

/* finite[n]: whether all numbers of a sample are; x - x is 0 for those alone. */
extern "C" void all_finite(const REAL *x, uint8_t *finite, int64_t N, int64_t M, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < N; n++) {
        const int64_t start = n * M, whole = start + M / W * W;
        vec sum = {0};
        REAL more = 0;
        for (int64_t e = start; e < whole; e += W) sum += load(x + e) - load(x + e);
        for (int64_t e = whole; e < start + M; e++) more += x[e] - x[e];
        more += total(sum);
        finite[n] = more == 0;
    }
}

static inline vec larger(vec a, vec b) {
    a = a < 0 ? -a : a, b = b < 0 ? -b : b;
    return (a > b) | (a != a) ? a : b;
}

/* squares[n] = mean over a sample of (scale[n] * t / (atol + rtol * max(|y0|, |y1|)))^2, t as in weighted_sum. */
extern "C" void error_square(const REAL *y0, const REAL *y1, const double *scale, const REAL *const *terms,
                  const double *weights, int64_t K, double rtol, double atol, double *squares, int64_t N, int64_t M,
                  int threads) {
    const vec relative = splat((REAL)rtol), absolute = splat((REAL)atol);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < N; n++) {
        const int64_t start = n * M, whole = start + M / W * W;
        const vec s = splat((REAL)scale[n]);
        double more = 0;
        for (int64_t e = start; e < whole;) {
            const int64_t stop = run(e, whole, W);
            vec sum = {0};
            for (; e < stop; e += W) {
                vec a = {0};
                for (int64_t k = 0; k < K; k++) a += splat((REAL)weights[k]) * load(terms[k] + e);
                vec r = a * s / (absolute + relative * larger(load(y0 + e), load(y1 + e)));
                sum += r * r;
            }
            more += total(sum);
        }
        for (int64_t e = whole; e < start + M; e++) {
            REAL a = 0, p = y0[e] < 0 ? -y0[e] : y0[e], q = y1[e] < 0 ? -y1[e] : y1[e];
            for (int64_t k = 0; k < K; k++) a += (REAL)weights[k] * terms[k][e];
            REAL r = a * (REAL)scale[n] / ((REAL)atol + (REAL)rtol * (p > q || p != p ? p : q));
            more += (double)r * r;
        }
        squares[n] = more / (double)M;
    }
}

/* The gradient of error_square, given that of squares: to t into dt, to y0 and y1 into dy0 and dy1, which gets `more` of
 * y1's gradient besides, where there is any. */
extern "C" void error_square_back(const REAL *y0, const REAL *y1, const double *scale, const REAL *const *terms,
                                  const double *weights, int64_t K, double rtol, double atol, const double *grad,
                                  const REAL *more, REAL *dt, REAL *dy0, REAL *dy1, int64_t N, int64_t M,
                                  int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < N; n++) {
        const REAL s = (REAL)scale[n], f = (REAL)(2 * grad[n] / (double)M);
        const int64_t start = n * M, whole = start + M / W * W;
        const vec zero = {0}, half = splat((REAL)0.5), relative = splat((REAL)rtol), absolute = splat((REAL)atol);
        for (int64_t e = start; e < whole; e += W) {
            vec a = {0}, y = load(y0 + e), z = load(y1 + e);
            vec p = y < 0 ? -y : y, q = z < 0 ? -z : z;
            for (int64_t k = 0; k < K; k++) a += splat((REAL)weights[k]) * load(terms[k] + e);
            const vec tol = absolute + relative * (p > q ? p : q), r = a * s / tol, slip = -f * r * r / tol * relative;
            store(dt + e, f * r / tol);
            /* As torch.maximum does: where both are equal each gets half; |0| has gradient 0. */
            const vec first = p > q ? slip : p == q ? slip * half : zero, second = slip - first;
            store(dy0 + e, y > 0 ? first : y < 0 ? -first : zero);
            store(dy1 + e, (more ? load(more + e) : zero) + (z > 0 ? second : z < 0 ? -second : zero));
        }
        for (int64_t e = whole; e < start + M; e++) {
            REAL a = 0, p = y0[e] < 0 ? -y0[e] : y0[e], q = y1[e] < 0 ? -y1[e] : y1[e];
            for (int64_t k = 0; k < K; k++) a += (REAL)weights[k] * terms[k][e];
            const REAL tol = (REAL)atol + (REAL)rtol * (p > q ? p : q), r = a * s / tol;
            dt[e] = f * r / tol;
            const REAL slip = -f * r * r / tol * (REAL)rtol;
            const REAL first = p > q ? slip : p == q ? slip / 2 : 0, second = slip - first;
            dy0[e] = y0[e] > 0 ? first : y0[e] < 0 ? -first : 0;
            dy1[e] = (more ? more[e] : 0) + (y1[e] > 0 ? second : y1[e] < 0 ? -second : 0);
        }
    }
}

/* squares[r, n] = mean over a sample of (t_r / (atol + rtol |terms[0]|))^2, t_r = sum_k rows[r, k] * terms[k],
 * over those that have a weight: no NaN comes from the others. */
extern "C" void scaled_squares(const REAL *const *terms, const double *rows, int64_t K, int64_t R, double rtol,
                               double atol, double *squares, int64_t N, int64_t M, int threads) {
    const vec relative = splat((REAL)rtol), absolute = splat((REAL)atol);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < N; n++)
        for (int64_t r = 0; r < R; r++) {
            const int64_t start = n * M, whole = start + M / W * W;
            double more = 0;
            for (int64_t e = start; e < whole;) {
                const int64_t stop = run(e, whole, W);
                vec sum = {0};
                for (; e < stop; e += W) {
                    vec a = {0}, y = load(terms[0] + e);
                    for (int64_t k = 0; k < K; k++)
                        if (rows[r * K + k]) a += splat((REAL)rows[r * K + k]) * load(terms[k] + e);
                    a /= absolute + relative * (y < 0 ? -y : y);
                    sum += a * a;
                }
                more += total(sum);
            }
            for (int64_t e = whole; e < start + M; e++) {
                REAL a = 0, y = terms[0][e];
                for (int64_t k = 0; k < K; k++)
                    if (rows[r * K + k]) a += (REAL)rows[r * K + k] * terms[k][e];
                a /= (REAL)atol + (REAL)rtol * (y < 0 ? -y : y);
                more += (double)a * a;
            }
            squares[r * N + n] = more / (double)M;
        }
}

/* The gradient of scaled_squares, given that of squares: to terms[k], into outs[k]. That of |0| is 0. */
extern "C" void scaled_squares_back(const REAL *const *terms, const double *rows, int64_t K, int64_t R, double rtol,
                                    double atol, const double *grad, REAL *const *outs, int64_t N, int64_t M,
                                    int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < N; n++) {
        const int64_t start = n * M, whole = start + M / W * W;
        const vec zero = {0}, relative = splat((REAL)rtol), absolute = splat((REAL)atol);
        for (int64_t e = start; e < whole; e += W) {
            const vec y = load(terms[0] + e), tol = absolute + relative * (y < 0 ? -y : y);
            vec slip = {0};
            for (int64_t r = 0; r < R; r++) {
                const vec f = splat((REAL)(2 * grad[r * N + n] / (double)M));
                vec a = {0};
                for (int64_t k = 0; k < K; k++)
                    if (rows[r * K + k]) a += splat((REAL)rows[r * K + k]) * load(terms[k] + e);
                a /= tol;
                slip -= f * a * a / tol * relative;
                a *= f / tol;
                for (int64_t k = 0; k < K; k++) {
                    const vec share = splat((REAL)rows[r * K + k]) * a;
                    store(outs[k] + e, r ? load(outs[k] + e) + share : share);
                }
            }
            store(outs[0] + e, load(outs[0] + e) + (y > 0 ? slip : y < 0 ? -slip : zero));
        }
        for (int64_t e = whole; e < start + M; e++) {
            const REAL y = terms[0][e], tol = (REAL)atol + (REAL)rtol * (y < 0 ? -y : y);
            REAL slip = 0;
            for (int64_t r = 0; r < R; r++) {
                const REAL f = (REAL)(2 * grad[r * N + n] / (double)M);
                REAL a = 0;
                for (int64_t k = 0; k < K; k++)
                    if (rows[r * K + k]) a += (REAL)rows[r * K + k] * terms[k][e];
                a /= tol;
                slip -= f * a * a / tol * (REAL)rtol;
                a *= f / tol;
                for (int64_t k = 0; k < K; k++) outs[k][e] = (r ? outs[k][e] : 0) + (REAL)rows[r * K + k] * a;
            }
            outs[0][e] += y > 0 ? slip : y < 0 ? -slip : 0;
        }
    }
}

static inline REAL across(vec v) {
    typedef REAL half __attribute__((vector_size(BYTES / 2)));
    typedef REAL quarter __attribute__((vector_size(BYTES / 4)));
    half h[2];
    __builtin_memcpy(h, &v, sizeof v);
    h[0] += h[1];
    quarter q[2];
    __builtin_memcpy(q, h, sizeof q);
    q[0] += q[1];
    REAL sum = 0;
    for (int64_t i = 0; i < W / 4; i++) sum += q[0][i];
    return sum;
}

/* One sample of the transposed 3 x 3 convolution of stride and padding 1 to Z channels: for so few, a library pads them
 * to a whole vector and throws most of the work away. k is (3, 3, Z, C): the kernel flipped, the summed channel last. */
template <int Z>
static void narrow_one(const REAL *y, const REAL *k, const REAL *none, REAL *out, int64_t H, int64_t V, int64_t C) {
    for (int64_t r = 0; r < H; r++)
        for (int64_t from = 0; from < V; from += 4) {
            const int64_t x = from + 4 <= V ? from : V - 4; /* the last four may overlap the ones before */
            vec sum[4][Z] = {};
            for (int64_t i = 0; i < 3; i++) {
                const int64_t row = r + i - 1;
                if (row < 0 || row >= H) continue;
                const REAL *at[6];
                for (int64_t j = 0; j < 6; j++) {
                    const int64_t column = x + j - 1;
                    at[j] = column < 0 || column >= V ? none : y + (row * V + column) * C;
                }
                for (int64_t c = 0; c < C; c += W)
                    for (int64_t j = 0; j < 3; j++) {
                        vec weight[Z];
                        for (int z = 0; z < Z; z++) weight[z] = load(k + ((i * 3 + j) * Z + z) * C + c);
                        for (int64_t q = 0; q < 4; q++) {
                            const vec value = load(at[q + j] + c);
                            for (int z = 0; z < Z; z++) sum[q][z] += value * weight[z];
                        }
                    }
            }
            for (int64_t q = 0; q < 4; q++)
                for (int z = 0; z < Z; z++) out[(r * V + x + q) * Z + z] = across(sum[q][z]);
        }
}

/* out (N, H, V, Z) from y (N, H, V, C), channels last; Z at most 4, V at least 4, C a multiple of the vector's width. */
extern "C" void narrow_transpose(const REAL *y, const REAL *k, REAL *out, int64_t N, int64_t H, int64_t V, int64_t C,
                                 int64_t Z, int threads) {
    void (*const one[])(const REAL *, const REAL *, const REAL *, REAL *, int64_t, int64_t, int64_t) = {
        narrow_one<1>, narrow_one<2>, narrow_one<3>, narrow_one<4>};
    REAL *none = (REAL *)calloc(C, sizeof(REAL));
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < N; n++) one[Z - 1](y + n * H * V * C, k, none, out + n * H * V * Z, H, V, C);
    free(none);
}
