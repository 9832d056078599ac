// As a program has it whose dev server resolves the package by its name.

export * from "batchnorm-wasm";
