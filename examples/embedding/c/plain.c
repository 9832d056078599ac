#include "plain.h"

#include <math.h>
#include <stdlib.h>

enum { LANES = 8 };

void plain_init(Plain *p, size_t outer, size_t channels, size_t inner) {
  size_t length = outer * channels * inner;
  *p = (Plain){.outer = outer, .channels = channels, .inner = inner};
  p->y = calloc(length, sizeof(float));
  p->dx = calloc(length, sizeof(float));
  double **vectors[] = {&p->d_gamma, &p->d_beta, &p->running_mean, &p->running_variance};
  for (int i = 0; i < 4; i++) *vectors[i] = calloc(channels, sizeof(double));
  for (size_t c = 0; c < channels; c++) p->running_variance[c] = 1;
}

void plain_free(Plain *p) {
  void *arrays[] = {p->y, p->dx, p->d_gamma, p->d_beta, p->running_mean, p->running_variance};
  for (int i = 0; i < 6; i++) free(arrays[i]);
}

typedef struct {
  double first, product;
} Sums;

// Over one channel, the sums of a - a0 and of (a - a0)·(b - b0).
static inline Sums sums(const Plain *p, size_t channel, const float *a, double a0, const float *b, double b0) {
  double first[LANES] = {0}, product[LANES] = {0};
  for (size_t n = 0; n < p->outer; n++) {
    size_t i = (n * p->channels + channel) * p->inner, end = i + p->inner;
    for (; i + LANES <= end; i += LANES) {
      for (size_t lane = 0; lane < LANES; lane++) {
        first[lane] += a[i + lane] - a0;
        product[lane] += (a[i + lane] - a0) * (b[i + lane] - b0);
      }
    }
    for (; i < end; i++) {
      first[0] += a[i] - a0;
      product[0] += (a[i] - a0) * (b[i] - b0);
    }
  }
  Sums total = {0, 0};
  for (size_t lane = 0; lane < LANES; lane++) {
    total.first += first[lane];
    total.product += product[lane];
  }
  return total;
}

void plain_step(Plain *p, const float *restrict x, const float *restrict dy, const float *gamma, const float *beta,
                double epsilon, double momentum) {
  float *restrict y = p->y, *restrict dx = p->dx;
  double m = (double)p->outer * (double)p->inner;
  for (size_t c = 0; c < p->channels; c++) {
    double mean = sums(p, c, x, 0, x, 0).first / m;
    double squares = sums(p, c, x, mean, x, mean).product;
    double inv_std = 1 / sqrt(squares / m + epsilon);
    double scale = gamma[c] * inv_std;
    float centre = (float)mean, a = (float)scale;
    for (size_t n = 0; n < p->outer; n++) {
      size_t begin = (n * p->channels + c) * p->inner;
      for (size_t i = begin; i < begin + p->inner; i++) y[i] = (x[i] - centre) * a + beta[c];
    }

    p->running_mean[c] += momentum * (mean - p->running_mean[c]);
    p->running_variance[c] += momentum * (squares / (m - 1) - p->running_variance[c]);

    Sums gradients = sums(p, c, dy, 0, x, mean);
    p->d_beta[c] = gradients.first;
    p->d_gamma[c] = gradients.product * inv_std;
    float slope = (float)(-scale * inv_std * p->d_gamma[c] / m), level = (float)(-scale * p->d_beta[c] / m);
    for (size_t n = 0; n < p->outer; n++) {
      size_t begin = (n * p->channels + c) * p->inner;
      for (size_t i = begin; i < begin + p->inner; i++) dx[i] = a * dy[i] + slope * (x[i] - centre) + level;
    }
  }
}
