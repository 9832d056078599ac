// The same training step in plain C, for channels first: two passes for the statistics, sums in double, eight of them side
// by side so that the compiler can vectorise, and maps in float.

#pragma once

#include <stddef.h>

typedef struct {
  size_t outer, channels, inner;
  float *y, *dx;
  double *d_gamma, *d_beta, *running_mean, *running_variance;
} Plain;

void plain_init(Plain *plain, size_t outer, size_t channels, size_t inner);
void plain_free(Plain *plain);

// Forward, running statistics, backward.
void plain_step(Plain *plain, const float *x, const float *dy, const float *gamma, const float *beta, double epsilon,
                double momentum);
