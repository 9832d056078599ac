// A layer has learned from healthy data. Then one channel drifts, one dies, and one has a gamma that lets nothing through.
import { BatchNorm, diagnose, recalibrate } from "batchnorm-wasm";

const [samples, channels] = [256, 6];
const batch = (f) => ({
  shape: [samples, channels],
  data: Float32Array.from({ length: samples * channels }, (_, i) => f(Math.sin(i * i), i % channels)),
});
const healthy = batch((v) => v);
const ill = batch((v, c) => (c === 1 ? v + 2 : c === 3 ? 0.5 : v));

const bn = new BatchNorm(channels, { activation: "relu" });
for (let step = 0; step < 100; step++) bn.forward(healthy);
bn.gamma[4] = 0.0001;

const found = diagnose(bn, ill);
console.log(found);
console.log("drifted", found.drifted, "dead", found.dead, "weak", found.weak);

await recalibrate(bn, [ill]); // statistics of the data that it sees now
console.log("drifted after recalibrate", diagnose(bn, ill).drifted);
