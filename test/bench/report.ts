/** What a run says: printed as it comes, kept as Markdown for `docs/performance.md` and as figures. */

import { printTable } from "./figures.ts";

export type Cell = string | number;

export class Report {
  /** By section, as JSON. */
  readonly figures: Record<string, unknown> = {};
  private readonly parts: string[] = [];

  title(text: string): void {
    console.log(`## ${text}\n`);
    this.parts.push(`### ${text}`);
  }

  table(headings: readonly string[], rows: readonly (readonly Cell[])[]): void {
    printTable(headings, rows);
    const line = (cells: readonly Cell[]): string =>
      `| ${cells.map((cell) => (typeof cell === "number" ? cell.toLocaleString("en-US") : cell)).join(" | ")} |`;
    this.parts.push([line(headings), line(headings.map(() => "---")), ...rows.map(line)].join("\n"));
  }

  say(text: string): void {
    console.log(`${text}\n`);
    this.parts.push(text);
  }

  /** Something that was to be measured and is not: told where nobody misses it. */
  skipped(what: string, why: string): void {
    this.say(`**Left out: ${what}.** ${why}`);
  }

  markdown(): string {
    return `${this.parts.join("\n\n")}\n`;
  }
}
