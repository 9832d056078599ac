// The editor: CodeMirror for JavaScript, in the colours of the site. Tab leaves it, as it leaves any field.

import { javascript } from "@codemirror/lang-javascript";
import { syntaxHighlighting } from "@codemirror/language";
import { EditorState, Prec } from "@codemirror/state";
import { keymap } from "@codemirror/view";
import { classHighlighter } from "@lezer/highlight";
import { basicSetup, EditorView } from "codemirror";

/**
 * Makes an editor in an element.
 *
 * @param onRun for Ctrl+Enter, on a Mac Cmd+Enter
 * @param onChange for every change by the user
 */
export function editorIn(parent: HTMLElement, code: string, onRun: () => void, onChange: () => void): EditorView {
  const run = () => {
    onRun();
    return true;
  };
  return new EditorView({
    parent,
    state: EditorState.create({
      doc: code,
      extensions: [
        Prec.highest(
          keymap.of([
            { key: "Mod-Enter", run },
            { key: "Ctrl-Enter", run },
          ]),
        ),
        basicSetup,
        javascript(),
        syntaxHighlighting(classHighlighter),
        // Firefox lets a keyboard reach an element that can be edited, but axe-core asks for a tabindex
        EditorView.contentAttributes.of({ "aria-label": "Program", tabindex: "0" }),
        EditorView.updateListener.of((update) => {
          if (update.transactions.some((t) => t.isUserEvent("input") || t.isUserEvent("delete"))) onChange();
        }),
      ],
    }),
  });
}

/** Replaces the whole program. */
export const setCode = (editor: EditorView, code: string): void =>
  editor.dispatch({ changes: { from: 0, to: editor.state.doc.length, insert: code }, scrollIntoView: true });

/** Selects a line of the program, counted from 1. */
export function goToLine(editor: EditorView, line: number): void {
  const { from, to } = editor.state.doc.line(Math.min(line, editor.state.doc.lines));
  editor.dispatch({ selection: { anchor: from, head: to }, scrollIntoView: true });
  editor.focus();
}
