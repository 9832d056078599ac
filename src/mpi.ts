// The entry batchnorm-wasm/mpi.

export { type MpiGroup, mpiGroup } from "./distributed/mpi.ts";
