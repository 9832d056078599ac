// As a program has it whose dev server resolves the package by its name.

export * as library from "batchnorm-wasm";
export * as core from "batchnorm-wasm/core";
