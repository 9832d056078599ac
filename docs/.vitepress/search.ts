// The search of the site, which runs in the page. A query finds sections: a page, or a part of it under a heading.

import type { DefaultTheme } from "vitepress";

type Options = NonNullable<DefaultTheme.LocalSearchOptions["miniSearch"]>;

/**
 * How sections are ranked. A page of a symbol weighs less than a page that somebody wrote, unless the query is its name: who
 * types "save" wants the guide. Tables of results and the changelog name everything, but answer few questions.
 */
export const searchOptions: Options["searchOptions"] = {
  fuzzy: 0.2,
  prefix: true,
  boost: { title: 3, text: 2, titles: 1 },
  boostDocument: (id: string, term: string) => {
    if (id.startsWith("/reference/api/")) return id.toLowerCase().includes(`/${term.toLowerCase()}.html`) ? 4 : 0.2;
    return /^\/(reference\/changelog|results)\b/.test(id) ? 0.4 : 1;
  },
};

/** Renders a page for the index. Of TypeDoc's pages it keeps the title and the words before the first heading. */
export const renderForSearch: DefaultTheme.LocalSearchOptions["_render"] = (source, env, md) => {
  const html = md.render(source, env);
  if (env.frontmatter?.search === false) return "";
  if (!env.relativePath.startsWith("reference/api/")) return html;
  return html.replace(/<h2[\s\S]*$/, "").replace(/<blockquote>[\s\S]*?<\/blockquote>/g, "");
};
