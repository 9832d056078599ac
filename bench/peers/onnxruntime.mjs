// Peer: onnxruntime-web's wasm on one thread, BatchNormalization as a model of one node: inference, and the forward pass in
// training mode; it has no backward. The operator wants channels first; channels-last data is given to it as [N·H·W, C].
// Every call copies x in and y out, as session.run does it.

import * as ort from "onnxruntime-web/wasm";
import protobuf from "protobufjs";
import { EPSILON } from "../data.mjs";

// the fields of onnx.proto that such a model needs
const { root } = protobuf.parse(
  `syntax = "proto2";
  message ModelProto {
    optional int64 ir_version = 1; optional GraphProto graph = 7; repeated OperatorSetIdProto opset_import = 8;
  }
  message OperatorSetIdProto { optional string domain = 1; optional int64 version = 2; }
  message GraphProto {
    repeated NodeProto node = 1; optional string name = 2;
    repeated ValueInfoProto input = 11; repeated ValueInfoProto output = 12;
  }
  message NodeProto {
    repeated string input = 1; repeated string output = 2; optional string op_type = 4;
    repeated AttributeProto attribute = 5;
  }
  message AttributeProto { optional string name = 1; optional float f = 2; optional int64 i = 3; optional int32 type = 20; }
  message ValueInfoProto { optional string name = 1; optional TypeProto type = 2; }
  message TypeProto { optional Tensor tensor_type = 1; }
  message Tensor { optional int32 elem_type = 1; optional TensorShapeProto shape = 2; }
  message TensorShapeProto { repeated Dimension dim = 1; }
  message Dimension { optional int64 dim_value = 1; }`,
  { keepCase: true },
);
const FLOAT = 1; // TensorProto.DataType and AttributeProto.AttributeType alike
const INT = 2;

/** The bytes of a model that is one BatchNormalization. */
function modelOf(shape, training) {
  const input = ["x", "gamma", "beta", "mean", "variance"];
  const output = training ? ["y", "newMean", "newVariance"] : ["y"];
  const value = (name, i) => {
    const dim = (i === 0 ? shape : [shape[1]]).map((dim_value) => ({ dim_value }));
    return { name, type: { tensor_type: { elem_type: FLOAT, shape: { dim } } } };
  };
  const attribute = [
    { name: "epsilon", f: EPSILON, type: FLOAT },
    { name: "training_mode", i: training ? 1 : 0, type: INT },
  ];
  const node = [{ input, output, op_type: "BatchNormalization", attribute }];
  const graph = { name: "batchNorm", node, input: input.map(value), output: output.map(value) };
  const model = root.lookupType("ModelProto");
  return model.encode(model.fromObject({ ir_version: 8, graph, opset_import: [{ domain: "", version: 15 }] })).finish();
}

export const onnxruntime = {
  async prepare({ shape, layout, dims, ...problem }, { onnxWasm }) {
    ort.env.wasm.numThreads = 1;
    if (onnxWasm) ort.env.wasm.wasmPaths = onnxWasm;
    const view = layout === "channels-last" ? [dims.outer, dims.channels] : shape;
    const vector = (data) => new ort.Tensor("float32", data, [dims.channels]);
    const feeds = {
      x: new ort.Tensor("float32", problem.x, view),
      gamma: vector(problem.gamma),
      beta: vector(problem.beta),
      mean: vector(problem.runningMean),
      variance: vector(problem.runningVariance),
    };
    const operation = async (training) => {
      const session = await ort.InferenceSession.create(modelOf(view, training), { executionProviders: ["wasm"] });
      let outputs;
      return {
        asynchronous: true,
        async call() {
          outputs = await session.run(feeds);
        },
        results: () => ({ y: outputs.y.data }),
      };
    };
    return { operations: { inference: await operation(false), forward: await operation(true) } };
  },
};
