//! batchnorm-host WASM GOLDEN: a small training run, the golden cases, and one step timed beside plain Rust.

mod batchnorm;
mod plain;

use std::{env, fs, iter::zip, time::Instant};

use batchnorm::{BatchNorm, Kernels};
use bytemuck::Pod;
use plain::Plain;
use wasmtime::{Result, bail, ensure};

const WASMTIME: &str = "48.0.8"; // as in Cargo.toml
const SHAPE: [u32; 4] = [32, 64, 56, 56];
const REPETITIONS: usize = 15;

/// The outputs of a step, and the largest error allowed in u, which the golden cases define.
const GATES: [(&str, f64); 8] = [
    ("y", 4.0),
    ("dx", 4.0),
    ("dGamma", 1.0),
    ("dBeta", 1.0),
    ("mean", 1.0),
    ("variance", 1.0),
    ("runningMean", 1.0),
    ("runningVariance", 1.0),
];

fn main() -> Result<()> {
    let [_, wasm, golden_file] = &env::args().collect::<Vec<_>>()[..] else {
        bail!("usage: batchnorm-host WASM GOLDEN");
    };
    let mut kernels = Kernels::load(wasm)?;
    train(&mut kernels)?;
    let (cases, worst) = golden(&mut kernels, &fs::read(golden_file)?)?;
    let (step, native) = race(&mut kernels)?;
    println!("one step of {SHAPE:?}: {step:.1} ms, plain Rust {native:.1} ms ({:.1}x)", native / step);

    let max_u: Vec<_> = zip(GATES, worst).map(|((name, _), u)| format!("\"{name}\":{u:.3}")).collect();
    println!(
        "{{\"host\":\"Rust\",\"engine\":\"wasmtime {WASMTIME}\",\"cases\":{cases},\"maxU\":{{{}}},\"equalBits\":true,\
         \"shape\":{SHAPE:?},\"stepMs\":{step:.2},\"native\":\"plain Rust\",\"nativeMs\":{native:.2}}}",
        max_u.join(",")
    );
    Ok(())
}

/// xorshift64*: uniform numbers in (−1, 1).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// Learns the gamma and beta of a teacher from its outputs. The inputs are far from standardised.
fn train(kernels: &mut Kernels) -> Result<()> {
    const STEPS: usize = 200;
    const CHANNELS: usize = 8;
    const INNER: usize = 100;
    let mut layer = BatchNorm::new(kernels, (16, CHANNELS as u32, INNER as u32))?;
    let length = 16 * CHANNELS * INNER;
    let (x, dy) = (kernels.zeros::<f32>(length)?, kernels.zeros::<f32>(length)?);
    let mut random = Random(1);
    let teacher: [[f64; 4]; CHANNELS] = [(); CHANNELS].map(|()| [(); 4].map(|()| random.next()));
    let mut target = vec![0.0; length];

    // The mean squared error, whose gradient goes to dy.
    let loss = |kernels: &mut Kernels, layer: &BatchNorm, target: &[f64]| {
        let mut sum = 0.0;
        for (i, target) in target.iter().enumerate() {
            let error = f64::from(kernels[layer.y][i]) - target;
            sum += error * error;
            kernels[dy][i] = (2.0 * error * CHANNELS as f64 / length as f64) as f32;
        }
        sum / length as f64
    };

    let mut losses = Vec::new();
    for _ in 0..STEPS {
        for (i, target) in target.iter_mut().enumerate() {
            let [centre, spread, gamma, beta] = teacher[i / INNER % CHANNELS];
            let noise = random.next();
            kernels[x][i] = (50.0 * centre + (2.0 + spread) * noise) as f32;
            *target = gamma * 3f64.sqrt() * noise + beta;
        }
        layer.train(kernels, x)?;
        losses.push(loss(kernels, &layer, &target));
        layer.backward(kernels, x, dy)?;
        layer.step(kernels, 0.5);
    }
    layer.infer(kernels, x)?;
    let held_out = loss(kernels, &layer, &target);
    let (first, last) = (losses[0], losses[STEPS - 1]);
    layer.backward(kernels, x, dy)?; // running statistics are constants of a last step on the same batch
    layer.step(kernels, 0.5);
    layer.infer(kernels, x)?;
    let frozen = loss(kernels, &layer, &target);
    println!(
        "training: loss {first:.3} -> {last:.5} in {STEPS} steps, {held_out:.5} in inference, {frozen:.1e} after a frozen step"
    );
    ensure!(last < first / 50.0 && held_out < first / 50.0, "training: the loss did not fall to a fiftieth");
    ensure!(frozen < held_out, "training: the loss did not fall in a frozen step");
    Ok(())
}

/// Reads the golden file, where float64 and every case begin at a multiple of 8.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    fn take<T: Pod>(&mut self, length: usize) -> Result<Vec<T>> {
        if size_of::<T>() == 8 {
            self.align();
        }
        let end = self.at + length * size_of::<T>();
        ensure!(end <= self.bytes.len(), "golden: the file ends within a case");
        let values = self.bytes[self.at..end].chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect();
        self.at = end;
        Ok(values)
    }
}

/// Holds every case against its float64 references, and its bits against those that Node computed.
fn golden(kernels: &mut Kernels, bytes: &[u8]) -> Result<(u32, [f64; 8])> {
    let mut file = Reader { bytes, at: 0 };
    let mut worst = [0.0; 8];
    let cases = file.take::<u32>(1)?[0];
    ensure!(cases > 0, "golden: there is no case");
    for case in 0..cases {
        file.align();
        let [outer, channels, inner, _] = file.take::<u32>(4)?[..] else { unreachable!() };
        let (c, n) = (channels as usize, (outer * channels * inner) as usize);
        let lengths = [n, n, c, c, c, c, c, c];
        let mut layer = BatchNorm::new(kernels, (outer, channels, inner))?;
        layer.epsilon = file.take(1)?[0];
        layer.momentum = file.take(1)?[0];
        let x = kernels.tensor::<f32>(&file.take(n)?)?;
        let dy = kernels.tensor::<f32>(&file.take(n)?)?;
        kernels[layer.gamma].copy_from_slice(&file.take(c)?);
        kernels[layer.beta].copy_from_slice(&file.take(c)?);
        kernels[layer.running_mean].copy_from_slice(&file.take(c)?);
        kernels[layer.running_variance].copy_from_slice(&file.take(c)?);
        let references = lengths.map(|length| file.take::<f64>(length));
        let scales = lengths.map(|_| file.take::<f64>(c));
        let node_y = file.take::<f32>(n)?;
        let node_dx = file.take::<f32>(n)?;
        let node_d_gamma = file.take::<f64>(c)?;
        let node_d_beta = file.take::<f64>(c)?;

        layer.train(kernels, x)?;
        layer.backward(kernels, x, dy)?;

        let bits = [
            same_bits(&kernels[layer.y], &node_y),
            same_bits(&kernels[layer.dx], &node_dx),
            same_bits(&kernels[layer.d_gamma], &node_d_gamma),
            same_bits(&kernels[layer.d_beta], &node_d_beta),
        ];
        for ((name, _), same) in zip(GATES, bits) {
            ensure!(same, "golden: case {case} [{outer}, {channels}, {inner}]: {name} has other bits than in Node");
        }

        let tensors = [layer.y, layer.dx].map(|t| kernels[t].iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
        let vectors =
            [layer.d_gamma, layer.d_beta, layer.mean, layer.variance, layer.running_mean, layer.running_variance];
        let got = tensors.into_iter().chain(vectors.map(|t| kernels[t].to_vec()));
        for (k, ((got, reference), scale)) in zip(zip(got, references), scales).enumerate() {
            let (name, gate) = GATES[k];
            let (reference, scale) = (reference?, scale?);
            let run = if k < 2 { inner as usize } else { 1 }; // values of a channel in a row
            for (i, (got, reference)) in zip(&got, &reference).enumerate() {
                let unit = (scale[i / run % c] * 2f64.powi(-24)).max(2f64.powi(-149));
                let u = (got - reference).abs() / unit;
                ensure!(
                    u <= gate,
                    "golden: case {case} [{outer}, {channels}, {inner}]: {name}[{i}] is {u:.2} u off, allowed are {gate}"
                );
                worst[k] = u.max(worst[k]);
            }
        }
    }
    let list: Vec<_> = zip(GATES, worst).map(|((name, _), u)| format!("{name} {u:.2}")).collect();
    println!("golden: {cases} cases, bits as in Node, largest errors in u: {}", list.join(", "));
    Ok((cases, worst))
}

fn same_bits<T: Pod>(a: &[T], b: &[T]) -> bool {
    bytemuck::cast_slice::<T, u8>(a) == bytemuck::cast_slice::<T, u8>(b)
}

/// Medians in milliseconds of forward + running statistics + backward: the kernels, and plain Rust on the same data.
fn race(kernels: &mut Kernels) -> Result<(f64, f64)> {
    let [outer, channels, height, width] = SHAPE;
    let inner = height * width;
    let mut layer = BatchNorm::new(kernels, (outer, channels, inner))?;
    let mut plain = Plain::new([outer, channels, inner].map(|d| d as usize));
    let mut random = Random(2);
    let mut noise = || (0..plain.y.len()).map(|_| random.next() as f32).collect::<Vec<_>>();
    let (x, dy) = (noise(), noise());
    let (x_there, dy_there) = (kernels.tensor(&x)?, kernels.tensor(&dy)?);
    let (gamma, beta) = (kernels[layer.gamma].to_vec(), kernels[layer.beta].to_vec());

    let mut times = [const { Vec::new() }; 2];
    for _ in 0..=REPETITIONS {
        let begin = Instant::now();
        layer.train(kernels, x_there)?;
        layer.backward(kernels, x_there, dy_there)?;
        times[0].push(begin.elapsed());
        let begin = Instant::now();
        plain.step(&x, &dy, &gamma, &beta, layer.epsilon, layer.momentum);
        times[1].push(begin.elapsed());
    }
    for (ours, theirs) in [(&kernels[layer.y], &plain.y), (&kernels[layer.dx], &plain.dx)] {
        let apart = zip(ours, theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        ensure!(apart < 1e-4, "race: plain Rust is {apart} away");
    }
    let [ours, theirs] = times.map(|mut times| {
        times.remove(0); // warm-up
        times.sort();
        1000.0 * times[times.len() / 2].as_secs_f64()
    });
    Ok((ours, theirs))
}
