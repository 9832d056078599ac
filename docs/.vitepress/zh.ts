// The Chinese part of the site: docs/zh has the Start and Concepts shelves. Everything else is in English.

import type { DefaultTheme, LocaleSpecificConfig } from "vitepress";

const page = (text: string, link: string): DefaultTheme.SidebarItem => ({ text, link: `/zh/${link}` });

const themeConfig: DefaultTheme.Config = {
  nav: [
    { text: "入门", link: "/zh/start/install", activeMatch: "^/zh/start/" },
    { text: "概念", link: "/zh/concepts/batch-norm", activeMatch: "^/zh/concepts/" },
    { text: "英文文档", link: "/" },
  ],
  sidebar: [
    {
      text: "入门",
      items: [
        page("安装", "start/install"),
        page("训练循环", "start/training"),
        page("预测", "start/inference"),
        page("保存与加载", "start/saving"),
        page("演示和实验室", "start/demo"),
      ],
    },
    {
      text: "概念",
      items: [
        page("批量规范化：做什么，为什么", "concepts/batch-norm"),
        page("公式推导", "concepts/derivation"),
        page("各种规范化的比较", "concepts/family"),
        page("数值精度", "concepts/numerics"),
        page("术语表", "concepts/glossary"),
      ],
    },
  ],
  outline: { level: [2, 3], label: "本页目录" },
  docFooter: { prev: "上一页", next: "下一页" },
  sidebarMenuLabel: "目录",
  returnToTopLabel: "返回顶部",
  langMenuLabel: "切换语言",
  skipToContentLabel: "跳到正文",
  darkModeSwitchLabel: "外观",
  lightModeSwitchTitle: "切换到浅色模式",
  darkModeSwitchTitle: "切换到深色模式",
  notFound: {
    title: "没有找到页面",
    quote: "地址可能有误，或者页面已经移走。",
    linkLabel: "回到首页",
    linkText: "回到首页",
  },
};

export const zh: LocaleSpecificConfig<DefaultTheme.Config> & { label: string } = {
  label: "简体中文",
  lang: "zh-CN",
  description: "用于 JavaScript 和 WebAssembly 的批量规范化（批归一化），可以训练。",
  themeConfig,
};

/** The words of the search box. */
export const searchInChinese: Partial<DefaultTheme.LocalSearchOptions> = {
  translations: {
    button: { buttonText: "搜索", buttonAriaLabel: "搜索" },
    modal: {
      displayDetails: "显示详细列表",
      resetButtonTitle: "清除查询",
      backButtonTitle: "关闭搜索",
      noResultsText: "没有结果：",
      footer: {
        selectText: "选择",
        selectKeyAriaLabel: "回车键",
        navigateText: "切换",
        navigateUpKeyAriaLabel: "向上键",
        navigateDownKeyAriaLabel: "向下键",
        closeText: "关闭",
        closeKeyAriaLabel: "退出键",
      },
    },
  },
};

/**
 * Divides a text into words for the search. Chinese has no spaces, so each of its characters counts as a word. VitePress
 * sends the text of this function to the page, so it refers to nothing outside itself.
 */
export const wordsOf = (text: string): string[] =>
  text.split(/[\n\r\p{Z}\p{P}]+/u).flatMap((word) => word.match(/\p{Script=Han}|\P{Script=Han}+/gu) ?? []);
