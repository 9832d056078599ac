//! A batch norm layer on WebAssembly kernels, run by wasmtime.
//!
//! The module owns nothing and allocates nothing, so this file lays out the memory:
//!
//! ```text
//! 0        64                                                              grows
//! | unused | gamma | beta | ... | x | y | dx | ... each at a 64-byte boundary |
//! ```
//!
//! A [`Tensor`] is an address with a length, and `kernels[tensor]` the slice there, without a copy. Address 0 means "none"
//! to the kernels, and no tensor lies there.

use std::{marker::PhantomData, ops::Index, ops::IndexMut, path::Path};

use bytemuck::Pod;
use wasmtime::{Config, Engine, Instance, Memory, Module, Result, Store, TypedFunc, ensure, format_err};

const VERSION: u32 = 2; // of the kernels' ABI
const ALIGNMENT: usize = 64;
const PAGE: usize = 65536;

/// A place in linear memory. It is empty by default, and then stands for "none".
#[derive(Clone, Copy)]
pub struct Tensor<T> {
    address: u32,
    length: usize,
    element: PhantomData<T>,
}

/// (outer, channels, inner): (N, C, H·W) for channels first, (N·H·W, C, 1) for channels last.
pub type Geometry = (u32, u32, u32);

type Forward = (u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, f64);
type Track = (u32, u32, u32, u32, f64, f64, u32);
type Backward = (u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32);

/// One instance of the module, with its memory.
pub struct Kernels {
    store: Store<()>,
    memory: Memory,
    end: usize,
    workspace: TypedFunc<(u32, u32, u32, u32), u32>,
    forward: TypedFunc<Forward, ()>,
    track: TypedFunc<Track, ()>,
    inference: TypedFunc<Forward, ()>,
    backward: TypedFunc<Backward, ()>,
}

impl Kernels {
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let engine = Engine::new(Config::new().wasm_simd(true).wasm_relaxed_simd(true))?;
        let module = Module::from_file(&engine, path)?;
        let mut store = Store::new(&engine, ());
        // env.memory: ours. A module that imports nothing brings its own.
        let ours = match module.imports().next() {
            Some(import) => {
                let kind = import.ty().memory().cloned();
                let kind = kind.ok_or_else(|| format_err!("the module imports {}", import.name()))?;
                Some(Memory::new(&mut store, kind)?)
            }
            None => None,
        };
        let imports: Vec<_> = ours.into_iter().map(Into::into).collect();
        let instance = Instance::new(&mut store, &module, &imports)?;
        let memory = ours.or_else(|| instance.get_memory(&mut store, "memory"));
        let version = instance.get_typed_func::<(), u32>(&mut store, "version")?.call(&mut store, ())?;
        ensure!(version == VERSION, "expected version {VERSION} of the kernels, got {version}");
        Ok(Self {
            memory: memory.ok_or_else(|| format_err!("the module neither imports nor exports a memory"))?,
            end: ALIGNMENT,
            workspace: instance.get_typed_func(&mut store, "workspace")?,
            forward: instance.get_typed_func(&mut store, "forward")?,
            track: instance.get_typed_func(&mut store, "track")?,
            inference: instance.get_typed_func(&mut store, "inference")?,
            backward: instance.get_typed_func(&mut store, "backward")?,
            store,
        })
    }

    /// A tensor of zeros.
    pub fn zeros<T: Pod>(&mut self, length: usize) -> Result<Tensor<T>> {
        let begin = self.end;
        let end = (begin + length * size_of::<T>()).next_multiple_of(ALIGNMENT);
        let missing = end.saturating_sub(self.memory.data_size(&self.store));
        self.memory.grow(&mut self.store, missing.div_ceil(PAGE) as u64)?;
        self.end = end;
        Ok(Tensor { address: begin as u32, length, element: PhantomData })
    }

    /// A tensor with these values.
    pub fn tensor<T: Pod>(&mut self, values: &[T]) -> Result<Tensor<T>> {
        let tensor = self.zeros(values.len())?;
        self[tensor].copy_from_slice(values);
        Ok(tensor)
    }
}

impl<T> Tensor<T> {
    fn bytes(self) -> std::ops::Range<usize> {
        let begin = self.address as usize;
        begin..begin + self.length * size_of::<T>()
    }
}

impl<T: Pod> Index<Tensor<T>> for Kernels {
    type Output = [T];

    fn index(&self, tensor: Tensor<T>) -> &[T] {
        bytemuck::cast_slice(&self.memory.data(&self.store)[tensor.bytes()])
    }
}

impl<T: Pod> IndexMut<Tensor<T>> for Kernels {
    fn index_mut(&mut self, tensor: Tensor<T>) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.memory.data_mut(&mut self.store)[tensor.bytes()])
    }
}

/// Batch normalization of one geometry, with PyTorch's conventions. Its tensors live in the memory of the kernels.
pub struct BatchNorm {
    pub epsilon: f64,
    pub momentum: f64,
    pub gamma: Tensor<f32>,
    pub beta: Tensor<f32>,
    pub running_mean: Tensor<f64>,
    pub running_variance: Tensor<f64>,
    pub mean: Tensor<f64>,
    pub variance: Tensor<f64>,
    pub d_gamma: Tensor<f64>,
    pub d_beta: Tensor<f64>,
    pub y: Tensor<f32>,
    pub dx: Tensor<f32>,
    inv_std: Tensor<f64>,
    /// The last forward took the running statistics.
    constant: bool,
    workspace: Tensor<u8>,
    geometry: Geometry,
}

impl BatchNorm {
    pub fn new(kernels: &mut Kernels, geometry: Geometry) -> Result<Self> {
        let (outer, channels, inner) = geometry;
        let element_bytes = size_of::<f32>() as u32;
        let workspace = kernels.workspace.call(&mut kernels.store, (element_bytes, outer, channels, inner))? as usize;
        let c = channels as usize;
        let n = outer as usize * c * inner as usize;
        Ok(Self {
            epsilon: 1e-5,
            momentum: 0.1,
            gamma: kernels.tensor(&vec![1.0; c])?,
            beta: kernels.zeros(c)?,
            running_mean: kernels.zeros(c)?,
            running_variance: kernels.tensor(&vec![1.0; c])?,
            mean: kernels.zeros(c)?,
            variance: kernels.zeros(c)?,
            d_gamma: kernels.zeros(c)?,
            d_beta: kernels.zeros(c)?,
            y: kernels.zeros(n)?,
            dx: kernels.zeros(n)?,
            inv_std: kernels.zeros(c)?,
            constant: false,
            workspace: kernels.zeros(workspace)?,
            geometry,
        })
    }

    /// Fills y with the batch's statistics, and moves the running ones.
    pub fn train(&mut self, kernels: &mut Kernels, x: Tensor<f32>) -> Result<()> {
        let (outer, channels, inner) = self.geometry;
        let count = outer * inner;
        ensure!(x.length == self.y.length, "x: expected {} elements, got {}", self.y.length, x.length);
        ensure!(count > 1, "expected more than 1 value per channel when training, got {count}");
        let [gamma, beta] = [self.gamma.address, self.beta.address];
        let [mean, variance, inv_std] = [self.mean.address, self.variance.address, self.inv_std.address];
        let [y, workspace] = [self.y.address, self.workspace.address];
        let forward =
            (x.address, y, gamma, beta, mean, variance, inv_std, workspace, outer, channels, inner, self.epsilon);
        kernels.forward.call(&mut kernels.store, forward)?;
        self.constant = false;
        let [running_mean, running_variance] = [self.running_mean.address, self.running_variance.address];
        let track = (running_mean, running_variance, mean, variance, self.momentum, f64::from(count), channels);
        kernels.track.call(&mut kernels.store, track)
    }

    /// Fills y with the running statistics.
    pub fn infer(&mut self, kernels: &mut Kernels, x: Tensor<f32>) -> Result<()> {
        let (outer, channels, inner) = self.geometry;
        ensure!(x.length == self.y.length, "x: expected {} elements, got {}", self.y.length, x.length);
        let [gamma, beta] = [self.gamma.address, self.beta.address];
        let [mean, variance] = [self.running_mean.address, self.running_variance.address];
        let [y, inv_std, workspace] = [self.y.address, self.inv_std.address, self.workspace.address];
        let inference =
            (x.address, y, gamma, beta, mean, variance, inv_std, workspace, outer, channels, inner, self.epsilon);
        self.constant = true;
        kernels.inference.call(&mut kernels.store, inference)
    }

    /// Fills dx, d_gamma and d_beta from the x of the last forward and the gradient of its y. After `infer`, statistics
    /// are constants.
    pub fn backward(&mut self, kernels: &mut Kernels, x: Tensor<f32>, dy: Tensor<f32>) -> Result<()> {
        let (outer, channels, inner) = self.geometry;
        for (name, length) in [("x", x.length), ("dy", dy.length)] {
            ensure!(length == self.dx.length, "{name}: expected {} elements, got {length}", self.dx.length);
        }
        let mean = if self.constant { self.running_mean } else { self.mean }.address;
        let [gamma, inv_std] = [self.gamma.address, self.inv_std.address];
        let [dx, d_gamma, d_beta] = [self.dx.address, self.d_gamma.address, self.d_beta.address];
        let (workspace, constant) = (self.workspace.address, u32::from(self.constant));
        let backward = (
            x.address, dy.address, dx, gamma, mean, inv_std, d_gamma, d_beta, workspace, outer, channels, inner,
            constant,
        );
        kernels.backward.call(&mut kernels.store, backward)
    }

    /// Stochastic gradient descent.
    pub fn step(&mut self, kernels: &mut Kernels, rate: f64) {
        for (parameter, gradient) in [(self.gamma, self.d_gamma), (self.beta, self.d_beta)] {
            for c in 0..parameter.length {
                let change = rate * kernels[gradient][c];
                kernels[parameter][c] -= change as f32;
            }
        }
    }
}
