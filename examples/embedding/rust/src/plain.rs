//! The same training step in plain Rust, for channels first: two passes for the statistics, sums in f64, eight of them side
//! by side so that the compiler can vectorise, and maps in f32.

use std::iter::zip;

const LANES: usize = 8;

pub struct Plain {
    pub y: Vec<f32>,
    pub dx: Vec<f32>,
    pub d_gamma: Vec<f64>,
    pub d_beta: Vec<f64>,
    pub running_mean: Vec<f64>,
    pub running_variance: Vec<f64>,
    inner: usize,
}

impl Plain {
    pub fn new([outer, channels, inner]: [usize; 3]) -> Self {
        let [y, dx] = [(); 2].map(|()| vec![0.0; outer * channels * inner]);
        let [d_gamma, d_beta, running_mean] = [(); 3].map(|()| vec![0.0; channels]);
        Self { y, dx, d_gamma, d_beta, running_mean, running_variance: vec![1.0; channels], inner }
    }

    /// Forward, running statistics, backward.
    pub fn step(&mut self, x: &[f32], dy: &[f32], gamma: &[f32], beta: &[f32], epsilon: f64, momentum: f64) {
        let (channels, inner) = (gamma.len(), self.inner);
        let m = (x.len() / channels) as f64;
        for c in 0..channels {
            let planes = |tensor| planes(tensor, c, channels, inner);

            let [sum] = sums(planes(x), planes(x), |x, _| [x]);
            let mean = sum / m;
            let [squares] = sums(planes(x), planes(x), |x, _| [(x - mean) * (x - mean)]);
            let variance = squares / m;
            let inv_std = 1.0 / (variance + epsilon).sqrt();
            let scale = f64::from(gamma[c]) * inv_std;
            let (centre, a, b) = (mean as f32, scale as f32, beta[c]);
            for (x, y) in zip(planes(x), planes_mut(&mut self.y, c, channels, inner)) {
                for (x, y) in zip(x, y) {
                    *y = (x - centre) * a + b;
                }
            }

            self.running_mean[c] += momentum * (mean - self.running_mean[c]);
            self.running_variance[c] += momentum * (squares / (m - 1.0) - self.running_variance[c]);

            let [d_beta, dot] = sums(planes(x), planes(dy), |x, dy| [dy, dy * (x - mean)]);
            let d_gamma = dot * inv_std;
            let (b, c0) = ((-scale * inv_std * d_gamma / m) as f32, (-scale * d_beta / m) as f32);
            for ((x, dy), dx) in zip(zip(planes(x), planes(dy)), planes_mut(&mut self.dx, c, channels, inner)) {
                for ((x, dy), dx) in zip(zip(x, dy), dx) {
                    *dx = a * dy + b * (x - centre) + c0;
                }
            }
            (self.d_gamma[c], self.d_beta[c]) = (d_gamma, d_beta);
        }
    }
}

/// The planes of one channel, one per image.
fn planes(tensor: &[f32], channel: usize, channels: usize, inner: usize) -> impl Iterator<Item = &[f32]> {
    tensor.chunks_exact(inner).skip(channel).step_by(channels)
}

fn planes_mut(tensor: &mut [f32], channel: usize, channels: usize, inner: usize) -> impl Iterator<Item = &mut [f32]> {
    tensor.chunks_exact_mut(inner).skip(channel).step_by(channels)
}

/// Sums of the terms of each pair of values.
fn sums<'a, const K: usize>(
    a: impl Iterator<Item = &'a [f32]>,
    b: impl Iterator<Item = &'a [f32]>,
    terms: impl Fn(f64, f64) -> [f64; K],
) -> [f64; K] {
    let mut sums = [[0.0; LANES]; K];
    for (a, b) in zip(a, b) {
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in zip(a, b) {
            for lane in 0..LANES {
                let terms = terms(a[lane].into(), b[lane].into());
                for (sum, term) in zip(&mut sums, terms) {
                    sum[lane] += term;
                }
            }
        }
        for (&a, &b) in zip(a_rest, b_rest) {
            for (sum, term) in zip(&mut sums, terms(a.into(), b.into())) {
                sum[0] += term;
            }
        }
    }
    sums.map(|lanes| lanes.iter().sum())
}
