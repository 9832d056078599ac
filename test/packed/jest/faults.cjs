// What users of Jest met: Jest runs tests in a realm of its own, so that arrays, errors and globals of Node are those of
// another realm. Each entry is an input that once failed, with what is right; the number is for reports.

const P = (values, shape) => ({ data: Float32Array.from(values), shape });
const x = () => P([1, 2, 3, 10], [4, 1]);
const dy = () => P([1, 0, 0, 0], [4, 1]);

/** Returns the error that a call throws or rejects with. */
async function thrown(call) {
  try {
    await call();
  } catch (error) {
    return error;
  }
  throw new Error("expected an error, got none");
}

/** A group of two ranks that have the same shard. */
const twice = {
  rank: 0,
  size: 2,
  sum(v) {
    for (let i = 0; i < v.length; i++) v[i] *= 2;
  },
  gather(v, all) {
    all.set(v);
    all.set(v, v.length);
  },
};

/**
 * Returns the checks by their names. `outer` makes values of Node's own realm: `bytes` and `floats`, from an array of
 * numbers.
 */
module.exports = (lib, outer, expect) => {
  const { BatchNorm, batchNormForward, batchNormBackward, tensor } = lib;
  const refuses = async (call, message) => expect((await thrown(call)).message).toMatch(message);
  const trained = (options) => {
    const bn = new BatchNorm(1, options);
    bn.forward(x());
    return bn;
  };
  return {
    "1 folding refuses an activation": async () => {
      const bn = new BatchNorm(2, { activation: "relu", epsilon: 0 });
      const linear = { weight: P([1, 0, 0, 1], [2, 2]) };
      await refuses(() => lib.foldIntoLinear(linear, bn), /^activation: /);
      await refuses(() => bn.toAffine(), /^activation: /);
      expect(lib.foldIntoLinear(linear, bn, { activation: "relu" }).weight.data.length).toBe(4);
    },
    "7 a view of a tensor and that tensor overlap": async () => {
      const t = tensor([4, 1], [1, 2, 3, 10]);
      const error = await thrown(() => new BatchNorm(1).forward({ data: t.data, shape: [4, 1] }, { out: t }));
      expect(error.code).toBe("in-place");
      expect(error instanceof lib.BatchNormError && error instanceof Error).toBe(true);
    },
    "8 gradients in the same memory are refused": async () => {
      const v = new Float32Array(1);
      const bn = trained();
      expect((await thrown(() => bn.backward(dy(), { dGammaOut: v, dBetaOut: v }))).code).toBe("in-place");
    },
    "12 bits need a type": async () => {
      const bn = new BatchNorm(2);
      const weight = Uint16Array.of(0x3c00, 0x4000);
      await refuses(() => bn.loadStateDict({ ...bn.stateDict(), weight }), /weight: expected an array of 2 numbers/);
      bn.loadStateDict({ ...bn.stateDict(), weight: { data: weight, shape: [2], dtype: "F16" } });
      expect([...bn.gamma]).toEqual([1, 2]);
    },
    "13 strides are refused": () =>
      refuses(() => batchNormForward({ ...P(Array(24).fill(1), [2, 3, 4]), stride: [12, 1, 3] }), /^x\.stride: /),
    "14 modes and properties": async () => {
      const bn = new BatchNorm(1);
      expect(bn.train(false).mode).toBe("eval");
      bn.momentum = 0.5;
      expect(bn.options.momentum).toBe(0.5);
      await refuses(() => {
        bn.training = false;
      }, /^bn\.training: /);
    },
    "15 a state that is not finite": async () => {
      for (const value of [Number.NaN, -0.5]) {
        const bn = new BatchNorm(3);
        const state = { ...bn.stateDict(), running_var: Float32Array.of(1, value, 1) };
        expect((await thrown(() => bn.loadStateDict(state))).code).toBe("state-dict");
      }
    },
    "18 forgotten tensors are collected": async () => {
      // 5 GB of results in a memory of 4 GiB; collection happens between two turns of the event loop
      const bn = new BatchNorm(1, { trackRunningStats: true });
      const input = tensor([2 ** 22, 1]);
      for (let i = 0; i < 320; i++) {
        bn.forward(input, { mode: "eval" });
        if (i % 8 === 7) await new Promise((done) => setTimeout(done, 1));
      }
      input.dispose();
    },
    "19 arrays of another realm go into every call": async () => {
      const foreign = { data: outer.floats([1, 2, 3, 10]), shape: [4, 1] };
      const { y, saved } = batchNormForward(foreign, { gamma: outer.floats([2]), beta: outer.floats([1]) });
      expect(y.data.length).toBe(4);
      const { dx, dGamma } = batchNormBackward({ data: outer.floats([1, 0, 0, 0]), shape: [4, 1] }, saved);
      expect([dx.data.length, dGamma.length]).toEqual([4, 1]);
      const bn = trained();
      bn.gamma = outer.floats([3]);
      bn.backward(foreign, { dGammaOut: outer.floats([0]), dBetaOut: outer.floats([0]) });
      bn.forward(foreign, { out: { data: outer.floats([0, 0, 0, 0]), shape: [4, 1] }, mode: "batch" });
      expect([...tensor([4, 1], outer.floats([1, 2, 3, 10])).data]).toEqual([1, 2, 3, 10]);
      expect(lib.normBackward(foreign, lib.layerNormForward(foreign, 1).saved).dx.data.length).toBe(4);
    },
    "19 safetensors are written and read": () => {
      const file = lib.writeSafetensors({ a: outer.floats([1, 2]), ä: 3 }, { format: "pt" });
      for (const bytes of [file, outer.bytes([...file])]) {
        const { tensors, metadata } = lib.readSafetensors(bytes);
        expect([...tensors.a.data]).toEqual([1, 2]);
        expect([Object.keys(tensors).sort(), metadata.format]).toEqual([["a", "ä"], "pt"]);
        const bn = new BatchNorm(2);
        bn.loadStateDict({ weight: tensors.a }, { strict: false });
        expect([...bn.gamma]).toEqual([1, 2]);
      }
    },
    "19 threads start and end": async () => {
      await lib.init({ threads: 2 });
      expect(lib.kernelInfo().threads).toBe(2);
      const { y } = batchNormForward(
        P(
          Array.from({ length: 400_000 }, (_, i) => i % 7),
          [100, 4, 1000],
        ),
      );
      expect(y.data.every((v) => Math.abs(v) < 2)).toBe(true);
      await lib.stopThreads();
      expect(lib.kernelInfo().threads).toBe(1);
    },
    "19 a group over ports, or an error that says what is missing": async () => {
      if (typeof MessageChannel === "undefined") {
        await refuses(() => lib.createMessagePorts(2), /^createMessagePorts: expected an engine with MessageChannel/);
        return;
      }
      const groups = lib.createMessagePorts(2).map((ports) => lib.messagePortGroup(ports, { timeoutMs: 20_000 }));
      const layers = groups.map((group) => new lib.SyncBatchNorm(1, { group }));
      const [a, b] = await Promise.all(layers.map((bn) => bn.forwardAsync(x())));
      expect([...a.data]).toEqual([...b.data]);
      for (const group of groups) group.close();
    },
    "19 a group over shared memory": async () => {
      const memory = lib.createGroupMemory(1, 3);
      const bn = new lib.SyncBatchNorm(1, { group: lib.sharedMemoryGroup(memory, 0) });
      bn.forward(x());
      expect(bn.batchesTracked).toBe(1);
    },
    "21 messages are bounded": async () => {
      const cyclic = [];
      cyclic.push(cyclic);
      const nested = Array(64).fill(Array(64).fill(Array(64).fill(0)));
      for (const data of [cyclic, nested])
        expect((await thrown(() => batchNormForward({ data, shape: [4, 1] }))).message.length).toBeLessThan(700);
      const names = Object.fromEntries(Array.from({ length: 50_000 }, (_, i) => [`name${i}`, 1]));
      expect((await thrown(() => new BatchNorm(1).loadStateDict(names))).message.length).toBeLessThan(1000);
    },
    "23 recalibrate takes a last batch of one": async () => {
      const bn = new BatchNorm(1);
      await lib.recalibrate(bn, [P([1, 2, 6], [3, 1]), P([9], [1, 1])]);
      expect(bn.runningMean[0]).toBe(4.5);
    },
    "24 a missing count is 0, and is reported": () => {
      const bn = trained();
      const { num_batches_tracked: _, ...state } = bn.stateDict();
      expect(bn.loadStateDict(state).missing).toEqual(["num_batches_tracked"]);
    },
    "25 masks of bigints": () => {
      const mask = BigInt64Array.of(1n, 1n, 1n, 0n);
      expect([...lib.batchNormStatistics(x(), { mask }).mean]).toEqual([2]);
    },
    "26 tensors of files are operands and weights": () => {
      const { tensors } = lib.readSafetensors(lib.writeSafetensors({ x: x() }));
      expect(batchNormForward(tensors.x).y.data.length).toBe(4);
      expect(lib.toFloat32({ data: Uint16Array.of(0x3c00), dtype: "F16" })[0]).toBe(1);
      const weight = { data: Uint16Array.of(0x3c00), shape: [1, 1], dtype: "F16" };
      expect(lib.foldIntoLinear({ weight, bias: P([1], [1]) }, trained()).weight.dtype).toBe("float16");
    },
    "27 copies": async () => {
      const bn = trained();
      const copy = new BatchNorm(1);
      copy.loadStateDict(JSON.parse(JSON.stringify(bn)));
      expect(copy.runningMean[0]).toBe(bn.runningMean[0]);
      expect(bn.clone().runningMean[0]).toBe(bn.runningMean[0]);
      await refuses(() => lib.toAffine({ ...bn }), /spread lose a layer's contents/);
    },
    "28 two forwards, one backward": async () => {
      const bn = new BatchNorm(1);
      bn.forward(x());
      bn.forward(dy());
      bn.backward(x());
      expect((await thrown(() => bn.backward(dy()))).code).toBe("no-forward");
      bn.track(batchNormForward(x()));
    },
    "29 arguments of a wrong kind": async () => {
      await refuses(() => lib.diagnose(null, x()), /^bn: /);
      await refuses(() => lib.packStatistics(null), /^statistics: /);
      await refuses(() => new lib.SyncBatchNorm(2), /^options: /);
      await refuses(() => trained().forward(x(), { statistics: 0 }), /^statistics: /);
      await refuses(() => batchNormForward(new Proxy(tensor([4, 1]), {})), /^x: .*Proxy/);
      await refuses(() => new Proxy(trained(), {}).mode, /^bn: .*Proxy/);
    },
    "30 accumulate after a gradient of another shape": async () => {
      const bn = new BatchNorm(1);
      bn.forward(x(), { perSample: { gamma: new Float32Array(4) } });
      bn.backward(dy());
      bn.forward(x());
      await refuses(() => bn.backward(dy(), { accumulate: true }), /^accumulate: /);
    },
    "31 no hint for PyTorch's own momentum": () => {
      const { warn } = console;
      const warnings = [];
      console.warn = (message) => warnings.push(message);
      try {
        new BatchNorm(1, lib.optionsFrom("pytorch", { momentum: 0.95 }));
      } finally {
        console.warn = warn;
      }
      expect(warnings).toEqual([]);
    },
    "32 Keras 3's numbered variables": () => {
      const bn = new BatchNorm(1);
      const vars = [[2], [3], [4], [5]].map((v, i) => [`layers/bn/vars/${i}`, outer.floats(v)]);
      bn.loadStateDict(Object.fromEntries(vars), { framework: "keras", prefix: "layers/bn" });
      expect([bn.gamma[0], bn.runningVariance[0]]).toEqual([2, 5]);
    },
    "33 parameters of 16 bits": () => {
      const gamma = { data: Uint16Array.of(0x4000), shape: [1], dtype: "float16" };
      const plain = batchNormForward(x(), { gamma: Float32Array.of(2) }).y;
      expect([...batchNormForward(x(), { gamma }).y.data]).toEqual([...plain.data]);
    },
    "34 one value per group": async () => {
      const beta = Float32Array.of(5, 6);
      expect([...lib.groupNormForward(P([1, 2, 3, 4], [2, 2]), 2, { beta }).y.data]).toEqual([5, 6, 5, 6]);
      await refuses(() => lib.instanceNormForward(P([1, 2], [1, 2])), /^x: expected more than 1 spatial element/);
    },
    "35 an x of shape [0]": async () => {
      const mean = Float32Array.of(0);
      expect(lib.batchNormInference(P([], [0]), { mean, variance: mean }).y.data.length).toBe(0);
    },
    "37 modules and builds": async () => {
      await refuses(
        () => lib.init({ module: new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0])) }),
        /^module: /,
      );
      await lib.init({ build: "simd" });
      expect(lib.kernelInfo().build).toBe("simd");
    },
    "38 a layer without running statistics": async () => {
      const bn = new BatchNorm(1, { trackRunningStats: false });
      for (const call of [
        () => lib.diagnose(bn, x()),
        () => bn.track(lib.batchNormStatistics(x())),
        () => lib.toAffine(bn),
      ])
        expect((await thrown(call)).code).toBe("no-running-statistics");
    },
    "40 states of a wrong kind": async () => {
      const bn = new BatchNorm(1);
      await refuses(
        () => bn.loadStateDict({ "bn.weight": [1] }, { prefix: "b", strict: false }),
        /^loadStateDict: .*prefix/,
      );
      await refuses(() => bn.loadStateDict(outer.bytes([1, 2, 3])), /^state: .*readSafetensors\(bytes\)\.tensors/);
      expect(bn.loadStateDict(new Map(Object.entries(bn.stateDict()))).missing).toEqual([]);
    },
    "41 the record of a layer's forward": () => {
      const bn = trained();
      expect(lib.batchNormGradientSums(dy(), bn.saved).dBeta[0]).toBe(1);
      expect(lib.batchNormDoubleBackward(dy(), bn.saved, { ddx: x() }).ddy.data.length).toBe(4);
    },
    "42 errors that name what is wrong": async () => {
      const { saved } = lib.layerNormForward(x(), 1);
      await refuses(() => batchNormBackward(dy(), saved), /^saved: .*normBackward/);
      await refuses(() => batchNormForward(x(), {}, { mask: [[1, 0, 1, 1]] }), /^mask: .*nested/);
    },
    "43 an assigned array is used without a copy": () => {
      const bn = new BatchNorm(1);
      const gamma = outer.floats([2]);
      bn.gamma = gamma;
      expect(bn.gamma === gamma).toBe(true);
    },
    "2 a synchronised layer stays one": async () => {
      const bn = new lib.SyncBatchNorm(1, { group: twice });
      bn.forward(x());
      const { saved } = bn;
      await thrown(() => bn.forward(P([1], [1, 2])));
      expect(bn.backward(dy(), { saved }).dx.data[0]).toBeCloseTo(0.161, 3);
    },
  };
};
