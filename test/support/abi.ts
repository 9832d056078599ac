// The generated parts of docs/reference/abi.md, exports and fields of the plan, from comments and signatures in assembly/.

import { readFileSync } from "node:fs";
import ts from "typescript";

/** A file of assembly/ whose exports are those of a wasm module. */
export type Source = "core" | "embed" | "extended";

interface Parameter {
  readonly name: string;
  readonly type: string;
  /** The text of its @param tag in the export's comment. */
  readonly comment: string | undefined;
}

export interface Export {
  readonly name: string;
  readonly comment: string;
  readonly parameters: readonly Parameter[];
  readonly returns: string | undefined;
  /** Names of @param tags that are not parameters. */
  readonly unknown: readonly string[];
  readonly isVoid: boolean;
}

function statementsOf(name: string) {
  const text = readFileSync(new URL(`../../assembly/${name}.ts`, import.meta.url), "utf8");
  return ts.createSourceFile(name, text, ts.ScriptTarget.Latest, true).statements;
}

/** Returns a comment as one line. */
const line = (comment: Parameters<typeof ts.getTextOfJSDocComment>[0]): string =>
  (ts.getTextOfJSDocComment(comment) ?? "").replace(/\s+/g, " ").trim();

const commentOf = (node: ts.Node): string =>
  ts
    .getJSDocCommentsAndTags(node)
    .filter(ts.isJSDoc)
    .map(({ comment }) => line(comment))
    .join(" ");

/** Returns the functions that a file declares and exports, in the file's order. */
export const exportsOf = (source: Source): Export[] =>
  statementsOf(source)
    .filter(ts.isFunctionDeclaration)
    .filter(({ modifiers }) => modifiers?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword))
    .map((f) => {
      const tags = ts.getAllJSDocTags(f, ts.isJSDocParameterTag);
      const comments = new Map(tags.map(({ name, comment }) => [name.getText(), line(comment)]));
      const parameters = f.parameters.map(({ name, type }) => ({
        name: name.getText(),
        type: type?.getText() ?? "",
        comment: comments.get(name.getText()),
      }));
      const returns = ts.getJSDocReturnTag(f);
      return {
        name: f.name?.text ?? "",
        comment: commentOf(f),
        parameters,
        returns: returns && line(returns.comment),
        unknown: [...comments.keys()].filter((name) => !parameters.some((p) => p.name === name)),
        isVoid: f.type?.getText() === "void",
      };
    });

function markdownOf({ name, comment, parameters, returns }: Export): string {
  const list = parameters.map(({ name, type }) => (type === "f64" ? `${name}: f64` : name)).join(", ");
  const items = parameters.flatMap(({ name, comment }) => (comment ? [`- \`${name}\`: ${comment}`] : []));
  if (returns) items.push(`- returns ${returns}`);
  return [`**${name}**(${list})  `, comment, ...(items.length ? ["", ...items] : [])].join("\n");
}

/** Returns the fields of a plan as rows of a table. A field without a comment shares the row of the field before it. */
function fieldsOfPlan(): string {
  const rows: { names: string[]; comment: string }[] = [];
  const [plan] = statementsOf("plan").filter(ts.isClassDeclaration);
  for (const member of plan?.members.filter(ts.isPropertyDeclaration) ?? []) {
    const comment = commentOf(member);
    if (comment) rows.push({ names: [], comment });
    rows.at(-1)?.names.push(`\`${member.name.getText()}\``);
  }
  let next = 0;
  const lines = rows.map(({ names, comment }) => {
    const numbers = names.map(() => next++).join(", ");
    return `| ${numbers} | ${names.join(", ")} | ${comment} |`;
  });
  return ["| number | field | is |", "|---|---|---|", ...lines].join("\n");
}

/** Returns the generated parts of docs/reference/abi.md by name. */
export const parts = (): Record<string, string> => ({
  plan: fieldsOfPlan(),
  ...Object.fromEntries(
    (["embed", "core", "extended"] as const).map((source) => [source, exportsOf(source).map(markdownOf).join("\n\n")]),
  ),
});
