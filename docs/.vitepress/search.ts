// The search of the site, which runs in the page. A query finds sections: a page, or a part of it under a heading.

import type { DefaultTheme } from "vitepress";

type Options = NonNullable<DefaultTheme.LocalSearchOptions["miniSearch"]>;

/**
 * How sections are ranked. A page of a symbol has its name and the first paragraph in the index, and weighs less than a
 * page that somebody wrote: who types "save" wants the guide, and who types "stateDict" finds no better match than its page.
 * Tables of results name everything, but answer few questions.
 */
export const searchOptions: Options["searchOptions"] = {
  fuzzy: 0.2,
  prefix: true,
  boost: { title: 4, text: 2, titles: 1 },
  boostDocument: (id: string) => (/^\/(reference\/(api|changelog)|results)\b/.test(id) ? 0.4 : 1),
};

/** Renders a page for the index. Of TypeDoc's pages it keeps the title and the words before the first heading. */
export const renderForSearch: DefaultTheme.LocalSearchOptions["_render"] = (source, env, md) => {
  const html = md.render(source, env);
  if (env.frontmatter?.search === false) return "";
  if (!env.relativePath.startsWith("reference/api/")) return html;
  return html.replace(/<h2[\s\S]*$/, "").replace(/<blockquote>[\s\S]*?<\/blockquote>/g, "");
};
