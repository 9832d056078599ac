// What docs/abi.md says of modules, exports and parameters, read from assembly/: the heads of the files that export, the
// exports' comments and signatures, and what parameters.ts says of each parameter.

import { readFileSync } from "node:fs";
import ts from "typescript";

/** A file of assembly/ whose exports are a module's. */
export type Source = "index" | "embed" | "extended";

interface Module {
  readonly name: string;
  readonly source: Source;
  /** Whose memory it works on. */
  readonly memory: "imported" | "its own";
  readonly needs: string;
  readonly is: string;
}

export const MODULES: readonly Module[] = [
  {
    name: "embed",
    source: "embed",
    memory: "imported",
    needs: "SIMD, bulk memory",
    is: "whole operations and the core's kernels, on the host's memory",
  },
  {
    name: "standalone",
    source: "embed",
    memory: "its own",
    needs: "SIMD, bulk memory",
    is: "the same, for hosts to which memory of the module's own comes easier",
  },
  {
    name: "simd",
    source: "index",
    memory: "imported",
    needs: "SIMD, bulk memory",
    is: "the core's kernels; the same bits on every engine",
  },
  {
    name: "relaxed",
    source: "index",
    memory: "imported",
    needs: "SIMD, bulk memory, relaxed SIMD",
    is: "the same with fused multiply-add: faster in cache, rounded once where the others round twice",
  },
  {
    name: "debug",
    source: "index",
    memory: "imported",
    needs: "SIMD, bulk memory",
    is: "the same, not optimized, with names and a source map",
  },
  {
    name: "extended",
    source: "extended",
    memory: "imported",
    needs: "SIMD, bulk memory",
    is: "kernels that plain batch normalization of float32 does without",
  },
];

/** Files that users do not get, of the same exports. */
export const BESIDE: readonly Pick<Module, "name" | "source" | "memory">[] = [
  { name: "extended-debug", source: "extended", memory: "imported" },
];

interface Parameter {
  readonly name: string;
  readonly type: string;
  /** What it means here, where that is not what its name says. */
  readonly own: string | undefined;
}

export interface Export {
  readonly name: string;
  readonly comment: string;
  readonly parameters: readonly Parameter[];
  readonly type: string;
  readonly returns: string | undefined;
  /** Of its comment, what is about no parameter that it has. */
  readonly stray: readonly string[];
}

function parse(name: string): ts.SourceFile {
  const text = readFileSync(new URL(`../assembly/${name}.ts`, import.meta.url), "utf8");
  return ts.createSourceFile(name, text, ts.ScriptTarget.Latest, true);
}

/** A comment as one line. */
const line = (comment: Parameters<typeof ts.getTextOfJSDocComment>[0]): string =>
  (ts.getTextOfJSDocComment(comment) ?? "").replace(/\s+/g, " ").trim();

const commentOf = (node: ts.Node): string =>
  ts
    .getJSDocCommentsAndTags(node)
    .filter(ts.isJSDoc)
    .map((doc) => line(doc.comment))
    .join(" ");

function exportOf(f: ts.FunctionDeclaration): Export {
  const own = new Map(
    ts.getAllJSDocTags(f, ts.isJSDocParameterTag).map((tag) => [tag.name.getText(), line(tag.comment)] as const),
  );
  const parameters = f.parameters.map((p) => ({
    name: p.name.getText(),
    type: p.type?.getText() ?? "",
    own: own.get(p.name.getText()),
  }));
  const returns = ts.getJSDocReturnTag(f);
  return {
    name: f.name?.text ?? "",
    comment: commentOf(f),
    parameters,
    type: f.type?.getText() ?? "",
    returns: returns && line(returns.comment),
    stray: [...own.keys()].filter((name) => !parameters.some((p) => p.name === name)),
  };
}

/** The functions that a file itself exports, in its order. */
export const ownExports = (source: Source): Export[] =>
  parse(source)
    .statements.filter(ts.isFunctionDeclaration)
    .filter((f) => f.modifiers?.some((m) => m.kind === ts.SyntaxKind.ExportKeyword))
    .map(exportOf);

/** With those of the files that it exports whole. */
export const allExports = (source: Source): Export[] => [
  ...ownExports(source),
  ...parse(source)
    .statements.filter(ts.isExportDeclaration)
    .flatMap(({ moduleSpecifier }) =>
      moduleSpecifier && ts.isStringLiteral(moduleSpecifier) ? [moduleSpecifier.text] : [],
    )
    .flatMap((file) => allExports(file.replace("./", "") as Source)),
];

interface Meaning {
  readonly name: string;
  readonly type: string;
  readonly comment: string;
}

/** What parameters.ts says, in its groups. */
export const meanings = (): { comment: string; entries: Meaning[] }[] =>
  parse("parameters")
    .statements.filter(ts.isInterfaceDeclaration)
    .map((group) => ({
      comment: commentOf(group),
      entries: group.members.filter(ts.isPropertySignature).map((member) => ({
        name: member.name.getText(),
        type: member.type?.getText() ?? "",
        comment: commentOf(member),
      })),
    }));

/** A file's head as Markdown: its indented lines are blocks of code. */
function headOf(source: Source): string {
  const { text } = parse(source);
  const head = text.slice(0, text.search(/^(?!\/\/)/m)).replace(/^\/\/ ?/gm, "");
  return head
    .trim()
    .replace(/(?:^ +\S.*(?:\n|$))+/gm, (block) => `\`\`\`text\n${block.replace(/^ {2}/gm, "").trimEnd()}\n\`\`\`\n`);
}

/** Types as wasm has them, where they are not the usual i32 of pointers and sizes. */
const unusual = (type: string): string => (type === "usize" ? "" : `: ${type}`);

function describe({ name, comment, parameters, type, returns }: Export): string {
  const list = parameters.map((p) => p.name + unusual(p.type)).join(", ");
  const result = type === "void" ? "" : ` → ${type}`;
  const own = parameters.filter((p) => p.own).map((p) => `- \`${p.name}\`: ${p.own}`);
  if (returns) own.push(`- returns ${returns}`);
  return [`**${name}**(${list})${result}  `, comment, ...(own.length ? ["", ...own] : [])].join("\n");
}

/** The parts of docs/abi.md that are made here, by their names. */
export function parts(): Record<string, string> {
  const modules = MODULES.map((m) => `| \`${m.name}.wasm\` | ${m.is} | ${m.memory} | ${m.needs} |`);
  const table = ["| file | has | memory | needs |", "|---|---|---|---|", ...modules].join("\n");
  const groups = meanings().map(({ comment, entries }) => {
    const rows = entries.map((e) => `| \`${e.name}\`${unusual(e.type)} | ${e.comment} |`);
    return [comment, "", "| parameter | is |", "|---|---|", ...rows].join("\n");
  });
  const exportsOf = (source: Source) => [headOf(source), ...ownExports(source).map(describe)].join("\n\n");
  return {
    modules: table,
    parameters: groups.join("\n\n"),
    embed: exportsOf("embed"),
    core: exportsOf("index"),
    extended: exportsOf("extended"),
  };
}
