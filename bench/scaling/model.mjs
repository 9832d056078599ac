// What synchronised batch norm takes over many ranks, on paper: bytes, messages and seconds of its exchanges by the α–β model, and
// by simulation what ranks wait for each other.
//
// A message of n bytes takes α + βn (Hockney 1994). Of R ranks, each of which has n bytes (Thakur, Rabenseifner & Gropp 2005):
//
//                        messages           bytes that a rank sends
//   gather  ring         R − 1              (R − 1)·n
//           tree         ⌈log₂ R⌉           (R − 1)·n          doubling what a rank has
//   sum     ring         2·(R − 1)          2·(R − 1)/R·n      scattering sums, then gathering them
//           tree         ⌈log₂ R⌉           ⌈log₂ R⌉·n         doubling the ranks that are in a sum

import { resnet50 } from "../networks.mjs";

const DOUBLE = 8;

/** Parameters of ResNet-50 (torchvision), whose gradients data-parallel training sums anyway, as float32 there. */
export const GRADIENT_BYTES = 25_557_032 * 4;

const ALGORITHMS = {
  gather: {
    ring: (ranks) => ({ messages: ranks - 1, share: ranks - 1 }),
    tree: (ranks) => ({ messages: Math.ceil(Math.log2(ranks)), share: ranks - 1 }),
  },
  sum: {
    ring: (ranks) => ({ messages: 2 * (ranks - 1), share: (2 * (ranks - 1)) / ranks }),
    tree: (ranks) => ({ messages: Math.ceil(Math.log2(ranks)), share: Math.ceil(Math.log2(ranks)) }),
  },
};

/** What one message of kind "gather" or "sum" costs a rank that has `bytes`. */
export function costOf({ kind, bytes }, algorithm, ranks) {
  const { messages, share } = ALGORITHMS[kind][algorithm](ranks);
  return { messages, bytes: share * bytes };
}

/** The numbers of a packet before its values (src/distributed/exchange.ts). */
export const HEADER = 21;

/**
 * The numbers of `mpiGroup`'s first gather, of which two say the kind and the length of the exchange. A packet that does not
 * fit is sent in a second gather.
 */
export const MPI = { first: 544, head: 2 };

/** The gathers of a packet of so many numbers: one, or those of `mpiGroup`. */
function gathersOf(numbers, transport) {
  const lengths = !transport
    ? [numbers]
    : [transport.first, ...(numbers > transport.first - transport.head ? [numbers] : [])];
  return lengths.map((length) => ({ kind: "gather", bytes: DOUBLE * length }));
}

/**
 * The exchanges of a step of ResNet-50 in their order: 53 in forward, of [count, mean, M2], and 53 in backward, of [dGamma, dBeta]
 * and room for one number more.
 *
 * @param {typeof MPI | undefined} [transport] MPI for a group that gathers as `mpiGroup` does
 * @param {{ channels: number }[]} [norms]
 */
export function exchangesOf(transport, norms = resnet50()) {
  return [...norms, ...norms.toReversed()].map(({ channels }) => ({
    channels,
    gathers: gathersOf(HEADER + 2 * channels + 1, transport),
  }));
}

const total = (numbers) => numbers.reduce((a, b) => a + b, 0);

/** The costs of a whole step: { messages, bytes }. */
export function stepCost(exchanges, algorithm, ranks) {
  const costs = exchanges.flatMap(({ gathers }) => gathers.map((message) => costOf(message, algorithm, ranks)));
  return { messages: total(costs.map((c) => c.messages)), bytes: total(costs.map((c) => c.bytes)) };
}

/** Seconds of a message over a network of α seconds and β seconds a byte. */
export function secondsOf(message, algorithm, ranks, { alpha, beta }) {
  const { messages, bytes } = costOf(message, algorithm, ranks);
  return messages * alpha + bytes * beta;
}

export const stepSeconds = (exchanges, algorithm, ranks, network) =>
  total(exchanges.flatMap(({ gathers }) => gathers.map((message) => secondsOf(message, algorithm, ranks, network))));

/** Seconds that a rank takes to merge what the others gathered, by those of one exchange for a rank and channel. */
export const mergeSeconds = (exchanges, ranks, merging) =>
  total(exchanges.map(({ channels }) => ranks * merging * channels));

/** Seconds of a message by the faster algorithm, as MPI libraries choose. */
const fastest = (message, ranks, network) =>
  Math.min(...["ring", "tree"].map((algorithm) => secondsOf(message, algorithm, ranks, network)));

/** Seconds of an exchange, merging included. */
const exchangeSeconds = (exchange, ranks, network) =>
  total(exchange.gathers.map((message) => fastest(message, ranks, network))) +
  (ranks > 1 ? mergeSeconds([exchange], ranks, network.merging ?? 0) : 0);

/**
 * Simulates steps of `ranks` ranks, each of which computes between two exchanges for 1/106 of `compute` seconds: as many pieces
 * of work as that is, whose times are drawn from `jitter`. An exchange begins when the last rank of its part has come, and the
 * parts, of `part` ranks each, meet in the sum of gradients at the end of a step, as they would without batch norm.
 *
 * @param {object} options
 * @param {number} options.ranks
 * @param {number} options.part ranks that synchronise batch norm among themselves; 1 is none
 * @param {number} options.compute seconds of a step without exchanges
 * @param {number[]} options.jitter seconds that one piece of work took, time after time
 * @param {{ alpha: number, beta: number, merging?: number, transport?: object }} options.network `merging`: seconds of an
 *   exchange for each rank and channel; `transport`: see exchangesOf
 * @param {() => number} options.next random numbers in [0, 1)
 * @param {number} options.steps
 * @returns {{ seconds: number, waiting: number, exchanging: number }} means of a step, the last two for batch norm alone
 */
export function simulate({ ranks, part, compute, jitter, network, next, steps }) {
  const exchanges = exchangesOf(network.transport);
  const segment = compute / exchanges.length;
  const mean = total(jitter) / jitter.length;
  const pieces = Math.max(1, Math.round(segment / mean));
  const draw = () => {
    let sum = 0;
    for (let i = 0; i < pieces; i++) sum += jitter[Math.floor(next() * jitter.length)];
    return (segment * sum) / (pieces * mean);
  };
  const gradients = fastest({ kind: "sum", bytes: GRADIENT_BYTES }, ranks, network);
  let [seconds, waiting, exchanging] = [0, 0, 0];
  for (let step = 0; step < steps; step++) {
    const ends = [];
    for (let first = 0; first < ranks; first += part) {
      const size = Math.min(part, ranks - first);
      let clock = 0;
      for (const exchange of exchanges) {
        let [latest, sum] = [0, 0];
        for (let rank = 0; rank < size; rank++) {
          const took = draw();
          latest = Math.max(latest, took);
          sum += took;
        }
        const took = exchangeSeconds(exchange, size, network);
        clock += latest + took;
        waiting += ((latest - sum / size) * size) / ranks;
        exchanging += (took * size) / ranks;
      }
      ends.push(clock);
    }
    seconds += Math.max(...ends) + gradients;
  }
  return { seconds: seconds / steps, waiting: waiting / steps, exchanging: exchanging / steps };
}
