/** Settings of `serve` in a YAML file: a mapping of names to single values. */

import { isMap, isScalar, LineCounter, parseDocument } from "yaml";
import { type FileSettings, type Given, suggestion } from "./config.ts";
import { SETTINGS } from "./settings.ts";

/** Reads the text of a settings file; everything wrong at once. */
export function readConfigFile(file: { readonly name: string; readonly text: string }): FileSettings {
  const settings = new Map<string, Given>();
  const problems: string[] = [];
  const found: FileSettings = { settings, problems };
  const lines = new LineCounter();
  const document = parseDocument(file.text, { lineCounter: lines, uniqueKeys: true });
  const at = (offset: number | undefined): string => {
    const { line, col } = lines.linePos(offset ?? 0);
    return `${file.name}:${line}:${col}`;
  };
  for (const error of document.errors) problems.push(`${at(error.pos[0])}: ${error.message.split("\n")[0]}`);
  const { contents } = document;
  if (document.errors.length > 0 || contents === null || (isScalar(contents) && contents.value === null)) return found;
  if (!isMap(contents)) {
    problems.push(`${at(contents.range?.[0])}: expected a mapping of settings`);
    return found;
  }
  const names = SETTINGS.map(({ name }) => name as string);
  for (const { key, value } of contents.items) {
    const name = isScalar(key) ? String(key.value) : "";
    const where = `${at(isScalar(key) ? key.range?.[0] : undefined)} ${name}`;
    if (!names.includes(name)) problems.push(`${where}: unknown setting${suggestion(name, names)}`);
    else if (!isScalar(value) || value.value === null) problems.push(`${where}: expected a single value`);
    else settings.set(name, { text: String(value.value), where });
  }
  return found;
}
