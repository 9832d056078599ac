// This library's features beside each other, in one isolate and on the same tensors, since times of separate memories
// differ by a tenth or two. Operations are named "<operation>, <feature>".

import { BatchNorm, tensor } from "../../dist/index.js";
import { EPSILON } from "../data.mjs";
import { passesOver } from "./copy.mjs";

const KINDS = { float32: Float32Array, float64: Float64Array, float16: Uint16Array, bfloat16: Uint16Array };

/** float32 as 16 bits, of numbers that these hold, and back. */
const BITS = {
  float16: {
    pack: (bits) => (bits << 1 ? ((bits >>> 16) & 0x8000) | (((bits & 0x7fffffff) >>> 13) - (112 << 10)) : 0),
    unpack(bits) {
      const size = bits & 0x7fff;
      const value = size < 0x400 ? size * 2 ** -24 : 2 ** ((size >> 10) - 15) * (1 + (size & 0x3ff) / 1024);
      return bits & 0x8000 ? -value : value;
    },
  },
  bfloat16: {
    pack: (bits) => bits >>> 16,
    unpack(bits) {
      WORD[0] = bits << 16;
      return FLOAT[0];
    },
  },
};
const WORD = new Uint32Array(1);
const FLOAT = new Float32Array(WORD.buffer);

/** `values` as elements of a type. In loops, since from() with a function takes seconds. */
function packed(values, dtype) {
  if (!BITS[dtype]) return new KINDS[dtype](values);
  const { pack } = BITS[dtype];
  const bits = new Uint32Array(values.buffer);
  const elements = new Uint16Array(values.length);
  for (let i = 0; i < elements.length; i++) elements[i] = pack(bits[i]);
  return elements;
}

/** Elements as numbers. */
function unpacked({ data }, dtype) {
  if (!BITS[dtype]) return data;
  const { unpack } = BITS[dtype];
  const elements = new Uint16Array(data.buffer, data.byteOffset, data.length); // where it may be a Float16Array
  const values = new Float32Array(data.length);
  for (let i = 0; i < values.length; i++) values[i] = unpack(elements[i]);
  return values;
}

export const features = {
  async prepare(problem, { features, copyModule }) {
    const { shape, layout, dims, lengths, gammas, betas } = problem;
    const made = new Map();
    /** The tensor of that name and type: of the problem's data, or of zeros. */
    const named = (name, dtype) => {
      const key = `${name}, ${dtype}`;
      if (!made.has(key)) {
        const data = problem[name] ? packed(problem[name], dtype) : new KINDS[dtype](problem.x.length);
        made.set(key, tensor(shape, data, { dtype }));
      }
      return made.get(key);
    };

    const operationsOf = ({ feature, options = {}, residual, separate, masked, conditional }) => {
      const { dtype = "float32", activation } = options;
      const of = (name) => named(name, dtype);
      const [x, dy, y, dx] = ["x", "dy", "y", "dx"].map(of);
      const added = residual ? of("residual") : undefined;
      const dAdded = residual ? of("dResidual") : undefined;
      const Vector = dtype === "float64" ? Float64Array : Float32Array;
      const layer = () => {
        const own = separate ? { ...options, activation: "none" } : options;
        const values = ["gamma", "beta", "runningMean", "runningVariance"].map((name) => [
          name,
          Vector.from(problem[name]),
        ]);
        return Object.assign(
          new BatchNorm(dims.channels, { layout, epsilon: EPSILON, ...own }),
          Object.fromEntries(values),
        );
      };
      const forwards = {
        ...(added && !separate && { residual: added }),
        ...(conditional && { perSample: { gamma: gammas, beta: betas } }),
      };
      const trains = { ...forwards, ...(masked && { mask: { lengths } }) };
      const passes = separate && passesOver(copyModule, x.heap.memory);
      const bytes = 4 * x.length;
      const bend = (t) => {
        if (added) passes.addRelu(t.pointer, added.pointer, bytes);
        else passes.relu(t.pointer, bytes);
      };
      if (separate && activation !== "relu") throw new Error(`${feature}: no separate pass for ${activation}`);

      const [inferring, training, differentiating] = [layer(), layer(), layer()];
      inferring.eval();
      const kept = separate ? named(`y of ${feature}`, dtype) : y;
      differentiating.forward(x, { out: kept, ...trains });
      if (separate) bend(kept);
      const { saved } = differentiating;
      let gradients = {};
      const dz = dAdded ?? dx;
      const differentiate = separate
        ? () => {
            passes.gate(kept.pointer, dy.pointer, dz.pointer, bytes);
            gradients = differentiating.backward(dz, { saved, dxOut: dx });
          }
        : () => {
            gradients = differentiating.backward(dy, { saved, dxOut: dx, dResidualOut: dAdded });
          };
      const forward = (layer, given) => () => {
        layer.forward(x, { out: y, ...given });
        if (separate) bend(y);
      };
      const results = () => ({ y: unpacked(y, dtype) });
      return {
        [`inference, ${feature}`]: { call: forward(inferring, forwards), results },
        [`forward, ${feature}`]: { call: forward(training, trains), results },
        [`backward, ${feature}`]: {
          call: differentiate,
          results: () => ({
            dx: unpacked(dx, dtype),
            dGamma: gradients.dGamma,
            dBeta: gradients.dBeta,
            ...(dAdded && { dResidual: unpacked(dAdded, dtype) }),
          }),
        },
      };
    };
    return { operations: Object.assign({}, ...features.map(operationsOf)) };
  },
};
