/** A report as text. */

import type { Recall, Report } from "./tally.ts";

export function reportText(
  name: string,
  report: Report,
  naive: readonly (readonly [rule: string, report: Report])[],
): string {
  const lines = [
    `=== ${name}: ${report.files} file(s), ${report.rows} rows, ${report.benignRequests} honest test requests of ${report.principals} principals`,
  ];
  if (report.benignRequests > 0) {
    const [low, high] = report.challengedInterval;
    lines.push(
      `  honest requests challenged ${percent(report.challenged, 3)} [${percent(low, 2)}..${percent(high, 2)}], denied ${percent(report.denied, 3)}`,
      `  principals ever challenged ${percent(report.principalsChallenged, 1)}, ever denied ${percent(report.principalsDenied, 1)}`,
    );
  }
  if (report.collateral > 0) {
    lines.push(
      `  owners' requests on a stolen credential: ${report.collateral}, blocked ${percent(report.collateralBlocked, 1)}`,
    );
  }
  if (report.recall.length > 0) {
    lines.push("", "  attack                     episodes  challenged 1st / 5 / 20  denied 1st / 5 / 20  median");
    for (const one of report.recall) lines.push(recallText(one));
    for (const { rate, threshold, recall } of report.benignRequests > 0 ? report.sweep : []) {
      const caught = recall.map(
        ({ attack, challenged }) => `${attack} ${challenged.map((share) => percent(share, 0)).join("/")}`,
      );
      lines.push(`  at ${percent(rate, 1)} false positives (score ${threshold.toFixed(1)}): ${caught.join(", ")}`);
    }
  }
  if (report.benignRequests > 0) {
    lines.push("", "  score at least  promised  observed  requests");
    for (const { score, promised, observed, count, telling } of report.bands) {
      const verdict = telling ? (observed <= 2 * promised ? "kept" : "BROKEN") : "too few to tell";
      lines.push(
        `  ${String(score).padStart(14)}  ${percent(promised, 3).padStart(8)}  ${percent(observed, 3).padStart(8)}  ${String(count).padStart(8)}  ${verdict}`,
      );
    }
  }
  if (naive.length > 0 && report.benignRequests > 0) {
    lines.push("", "  rule                    challenged  principals  caught at the first request / within 20");
    for (const [rule, one] of naive) {
      const all = one.recall.find(({ attack }) => attack === "all");
      const caught = all === undefined ? "-" : `${percent(all.challenged[0], 0)} / ${percent(all.challenged[2], 0)}`;
      lines.push(
        `  ${rule.padEnd(22)}  ${percent(one.challenged, 3).padStart(10)}  ${percent(one.principalsChallenged, 1).padStart(10)}  ${caught}`,
      );
    }
  }
  return lines.join("\n");
}

function recallText({ attack, episodes, challenged, denied, medianChallenged }: Recall): string {
  const shares = (values: readonly number[]): string => values.map((share) => percent(share, 0).padStart(5)).join(" ");
  const median = Number.isFinite(medianChallenged) ? String(medianChallenged) : "never";
  return `  ${attack.slice(0, 26).padEnd(26)} ${String(episodes).padStart(8)}  ${shares(challenged).padStart(24)}  ${shares(denied).padStart(19)}  ${median.padStart(6)}`;
}

function percent(share: number, digits: number): string {
  return Number.isNaN(share) ? "-" : `${(100 * share).toFixed(digits)}%`;
}
