// The site's theme: the default one, with the playground, which only its own page loads.

import type { Theme } from "vitepress";
import NotFound from "vitepress/dist/client/theme-default/NotFound.vue";
import DefaultTheme from "vitepress/theme-without-fonts"; // the fonts of the system: a web font is half of what a page loads
import { defineAsyncComponent, h } from "vue";

export default {
  extends: DefaultTheme,
  // the default theme's page has no main landmark
  Layout: () => h(DefaultTheme.Layout, null, { "not-found": () => h("main", h(NotFound)) }),
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
