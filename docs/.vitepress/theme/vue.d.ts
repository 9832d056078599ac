// A component to TypeScript: vue-tsc alone would see more of it.

declare module "*.vue" {
  import type { Component } from "vue";

  const component: Component;
  export default component;
}
