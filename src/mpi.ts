/**
 * The entry for training under mpirun: a process group over MPI, in Node.
 *
 * @module batchnorm-wasm/mpi
 */

export { type MpiGroup, mpiGroup } from "./distributed/mpi.ts";
