// The site's theme: the default one, with the playground, which only its own page loads.

import type { Theme } from "vitepress";
import DefaultTheme from "vitepress/theme";
import { defineAsyncComponent } from "vue";

export default {
  extends: DefaultTheme,
  enhanceApp({ app, router, siteData }) {
    app.component(
      "Playground",
      defineAsyncComponent(() => import("./playground/Playground.vue")),
    );
    // the lab is a page of its own, which the router of the site does not know
    router.onBeforeRouteChange = (to) => {
      if (!to.startsWith(`${siteData.value.base}lab/`)) return true;
      location.href = to;
      return false;
    };
  },
} satisfies Theme;
